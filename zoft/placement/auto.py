"""Choosing a placement, and falling back loudly when the choice turns out not to reach the model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import nn

from zoft.directions import Directions
from zoft.errors import ConfigError, PlacementError, ZoftWarning
from zoft.parameters import Trainable
from zoft.placement.batched import BatchedPlacement
from zoft.placement.dual import DualPlacement
from zoft.placement.flipout import FlipoutPlacement
from zoft.placement.inplace import InplacePlacement
from zoft.placement.protocol import Placement
from zoft.placement.snapshot import SnapshotPlacement
from zoft.placement.stream import StreamPlacement
from zoft.types import LossFn, ZOConfig

# A copy of the trainables counts as free up to this share of the model.
_FEW = 0.02


class _AutoStream(StreamPlacement):
    """``stream`` until it is shown not to reach the model; then ``snapshot``."""

    def proved(self, loss_fn: LossFn) -> Placement | None:
        try:
            return super().proved(loss_fn)
        except PlacementError as error:
            size = sum(t.parameter.numel() * t.parameter.element_size() for t in self._trainables)
            warnings.warn(
                f"falling back to placement 'snapshot', which takes {size / 2**20:.1f} MiB more: {error}",
                ZoftWarning,
                stacklevel=2,
            )
            return SnapshotPlacement(self._trainables, self._directions)


def check_placement(config: ZOConfig, trainables: Sequence[Trainable], *, evaluation: str) -> None:
    """Raise ConfigError if the configured placement cannot give weights of these dtypes back, or has no place."""
    if evaluation != "moved" and config.placement != "auto":
        raise ConfigError(
            f"{config.method} does not move weights but perturbs or differentiates what is computed from them, so "
            f"placement must be 'auto', got {config.placement!r}."
        )
    if config.placement == "inplace" and not config.force:
        InplacePlacement.check(trainables)


def make_placement(
    config: ZOConfig,
    model: nn.Module,
    trainables: Sequence[Trainable],
    directions: Directions,
    *,
    evaluation: str,
    part: tuple[int, int],
) -> Placement:
    """Build the placement that the configuration names, or that the method needs.

    ``auto`` takes ``snapshot`` where trainables are few, and where they are sharded over processes: each process
    then makes noise for its own shard only, which ``stream``, seeing whole weights, could not.

    Args:
        config: The run's configuration.
        model: The whole model.
        trainables: The parameters that are perturbed.
        directions: Where z comes from.
        evaluation: See :data:`zoft.method.Evaluation`.
        part: Number of the part of the data that this process evaluates, and how many there are.

    Raises:
        ConfigError: If the placement cannot reach weights that are held in this way.
    """
    if evaluation == "differentiated":
        return DualPlacement(model, trainables, directions)
    if evaluation == "per_example":
        return FlipoutPlacement(model, trainables, directions, *part)
    if config.placement == "inplace":
        return InplacePlacement(trainables, directions)
    if config.placement == "batched":
        return BatchedPlacement(
            model,
            trainables,
            directions,
            scratch_bytes=config.scratch_mib * 2**20,
            tokens=config.batched_tokens,
        )
    sharded = [t.name for t in trainables if t.slot.is_sharded]
    if sharded and config.placement == "stream":
        raise ConfigError(
            f"placement='stream' does not go with weights that are sharded over processes ({sharded[0]} is a DTensor). "
            "Use placement='snapshot', which copies and perturbs only each process's shard, or 'auto'."
        )
    few = sum(t.parameter.numel() for t in trainables) <= _FEW * sum(p.numel() for p in model.parameters())
    if config.placement == "snapshot" or (config.placement == "auto" and (few or sharded)):
        return SnapshotPlacement(trainables, directions)
    stream = _AutoStream if config.placement == "auto" else StreamPlacement
    return stream(model, trainables, directions, scratch_bytes=config.scratch_mib * 2**20)
