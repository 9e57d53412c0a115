"""The seam between methods and placements: directions can be added to weights, in part or whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from zoft.noise import Rounding, Span, Term


class Directions(Protocol):
    """A family of directions ``z(step, query)`` over the run's parameters."""

    def combine(
        self,
        spans: Sequence[Span],
        terms: Sequence[Term],
        *,
        decay: float = 1.0,
        rounding: Rounding = "nearest",
        rounding_step: int = 0,
    ) -> None:
        """Write ``round(decay * base + sum coefficient * z)``; see :func:`zoft.noise.combine`."""

    def combine_rows(
        self, out: torch.Tensor, base: torch.Tensor, rows: torch.Tensor, parameter: int, terms: Sequence[Term]
    ) -> None:
        """Write ``base[rows] + sum coefficient * z[rows]``; see :func:`zoft.noise.combine_rows`."""
