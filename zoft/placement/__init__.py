"""Where theta + eps z lives during a forward (DESIGN: placements)."""

from zoft.placement.auto import check_placement, make_placement
from zoft.placement.batched import BatchedPlacement
from zoft.placement.dual import DualPlacement
from zoft.placement.evaluated import Evaluated
from zoft.placement.inplace import InplacePlacement
from zoft.placement.protocol import Placement
from zoft.placement.snapshot import SnapshotPlacement
from zoft.placement.stream import StreamPlacement

__all__ = [
    "BatchedPlacement",
    "DualPlacement",
    "Evaluated",
    "InplacePlacement",
    "Placement",
    "SnapshotPlacement",
    "StreamPlacement",
    "check_placement",
    "make_placement",
]
