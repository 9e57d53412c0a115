"""The seam between a gradient estimate and the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch

from zoft.directions import Directions
from zoft.noise import Term
from zoft.parameters import Trainable
from zoft.types import StepRecord


class Group(NamedTuple):
    """Parameters that share a learning rate and a weight decay.

    Attributes:
        trainables: The parameters.
        lr: Learning rate.
        decay: Factor on the weights, ``1 - lr * weight_decay``.
    """

    trainables: Sequence[Trainable]
    lr: float
    decay: float


class Rule(Protocol):
    """Writes a step into the weights, and keeps what it needs for each of their elements.

    Attributes:
        steps_along_gradient: Whether a step is ``-lr g`` itself, with a g that repeats no earlier step's noise: the
            loss along g then says what lr does, which ``zo_lr="auto"`` goes by.
    """

    steps_along_gradient: bool

    def state_size(self, shape: torch.Size) -> int:
        """Return how many float32 numbers are kept for a weight of this shape."""

    def descend(
        self, directions: Directions, groups: Sequence[Group], gradient: Sequence[Term], record: StepRecord
    ) -> None:
        """Write one step. Called once for each step that is not skipped, in order, also in replay.

        Args:
            directions: Where z comes from.
            groups: All parameters.
            gradient: The estimate, ``g = sum coefficient * z``.
            record: The step; its number addresses the rounding bits.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the state: tensors and plain types."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
