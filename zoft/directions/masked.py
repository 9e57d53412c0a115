"""Directions that are zero where a weight is large: Sparse MeZO's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from zoft.directions.blockwise import BlockwiseDirections
from zoft.directions.dense import DenseDirections
from zoft.noise import Span, Term
from zoft.parameters import Trainable


@dataclass(frozen=True)
class MaskedDirections(BlockwiseDirections):
    """Dense noise in the elements whose weight is, at this moment, at most their tensor's threshold in magnitude.

    The weights are the same when a step is estimated and when it is applied, and so is the mask; it is never stored.

    Attributes:
        dense: The noise.
        kept: Share of each tensor's elements, those of least magnitude, that a direction moves; in (0, 1].
        thresholds: Of each parameter, from the weights that the run starts from; see :meth:`over`.
    """

    dense: DenseDirections
    kept: float
    thresholds: tuple[float, ...] = ()

    def over(self, trainables: Sequence[Trainable]) -> MaskedDirections:
        """The same over these parameters, with thresholds from their present weights."""
        return replace(self, thresholds=tuple(self._threshold(t.slot.whole()) for t in trainables))

    def _threshold(self, weight: torch.Tensor) -> float:
        least = weight.abs().flatten().kthvalue(max(1, math.ceil(round(self.kept * weight.numel(), 6)))).values
        # Of a tensor that starts as zeros (an adapter's factor) magnitudes say nothing yet, and a threshold of zero
        # would leave every element alone as soon as it has moved.
        return float(least) or math.inf

    def change(self, total: torch.Tensor, base: torch.Tensor, span: Span, terms: Sequence[Term]) -> torch.Tensor:
        """See :class:`zoft.directions.blockwise.BlockwiseDirections`."""
        return total.masked_fill_(base.abs() > self.thresholds[span.parameter], 0.0)

    def state_size(self, shape: torch.Size) -> int:
        """Nothing but a number for each tensor."""
        return 0

    def state_dict(self) -> dict[str, Any]:
        """The thresholds, which later weights would not give."""
        return {"thresholds": list(self.thresholds)}

    def with_state(self, state: dict[str, Any]) -> MaskedDirections:
        """See :class:`zoft.directions.Directions`."""
        return replace(self, thresholds=tuple(state["thresholds"]))
