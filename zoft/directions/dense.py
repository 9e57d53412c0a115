"""Independent noise in every element: the directions of MeZO and FZOO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from zoft import noise
from zoft.directions.stateless import Stateless
from zoft.directions.unfactored import Unfactored
from zoft.noise import Distribution, Rounding, Span, Term
from zoft.parameters import Trainable


@dataclass(frozen=True)
class DenseDirections(Unfactored, Stateless):
    """Directions with independent elements of mean 0 and variance 1.

    Attributes:
        key: 64-bit noise key of the run.
        distribution: ``"gaussian"`` or ``"rademacher"``.
        window: Steps that share their directions; 1: every step has its own.
    """

    key: int
    distribution: Distribution
    window: int = 1

    def over(self, trainables: Sequence[Trainable]) -> DenseDirections:
        """The same over any parameters."""
        return self

    def combine(
        self,
        spans: Sequence[Span],
        terms: Sequence[Term],
        *,
        decay: float = 1.0,
        rounding: Rounding = "nearest",
        rounding_step: int = 0,
    ) -> None:
        """See :func:`zoft.noise.combine`."""
        noise.combine(
            spans,
            self._shared(terms),
            key=self.key,
            distribution=self.distribution,
            decay=decay,
            rounding=rounding,
            rounding_step=rounding_step,
        )

    def combine_both(self, spans: Sequence[Span], mirrors: Sequence[torch.Tensor], terms: Sequence[Term]) -> None:
        """See :class:`zoft.directions.Directions`; the noise is made once."""
        shared = self._shared(terms)
        noise.combine(spans, shared, key=self.key, distribution=self.distribution, mirrors=mirrors)

    def combine_rows(
        self, out: torch.Tensor, base: torch.Tensor, rows: torch.Tensor, parameter: int, terms: Sequence[Term]
    ) -> None:
        """See :func:`zoft.noise.combine_rows`."""
        noise.combine_rows(
            out, base, rows, parameter, self._shared(terms), key=self.key, distribution=self.distribution
        )

    def _shared(self, terms: Sequence[Term]) -> Sequence[Term]:
        """Address the noise of each window's first step."""
        if self.window == 1:
            return terms
        return [Term(step // self.window * self.window, query, coefficient) for step, query, coefficient in terms]
