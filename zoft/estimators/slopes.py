"""Exact slopes, by forward-mode differentiation (Baydin et al. 2022, arXiv 2202.08587)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zoft.estimators.protocol import Point
from zoft.noise import Term
from zoft.types import Estimate


@dataclass(frozen=True)
class Slopes:
    """``projected_grad_k = d/ds L(theta + s z_k)`` at s = 0; each pass yields the loss as well.

    Attributes:
        num_queries: Directions a step, q.
    """

    num_queries: int

    kind = "slopes"

    @property
    def num_scalars(self) -> int:
        """One projected gradient for each query."""
        return self.num_queries

    @property
    def forwards(self) -> int:
        """A pass with tangents does the work of two."""
        return 2 * self.num_queries

    def points(self, step: int) -> list[Point]:
        """See :class:`zoft.estimators.Estimator`."""
        return [Point(f"loss of query {k}", (Term(step, k, 1.0),), num_values=2) for k in range(self.num_queries)]

    def estimate(self, losses: Sequence[float]) -> Estimate:
        """See :class:`zoft.estimators.Estimator`."""
        return Estimate(sum(losses[::2]) / self.num_queries, tuple(losses[1::2]))

    def projected_grads(self, scalars: Sequence[float]) -> list[float]:
        """See :class:`zoft.estimators.Estimator`."""
        return list(scalars)
