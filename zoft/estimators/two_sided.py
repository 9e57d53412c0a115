"""Central differences: SPSA (Spall 1992), n-SPSA (Malladi et al. 2023, arXiv 2305.17333, Definition 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zoft.estimators.protocol import Point
from zoft.noise import Term
from zoft.types import Estimate


@dataclass(frozen=True)
class TwoSided:
    """``projected_grad_k = (loss_plus_k - loss_minus_k) / (2 zo_eps)`` for each query k.

    The loss at theta is the mean over all points, which is exact to second order in ``zo_eps``.

    Attributes:
        num_queries: Directions a step, q.
        zo_eps: Perturbation scale.
    """

    num_queries: int
    zo_eps: float

    kind = "slopes"

    @property
    def num_scalars(self) -> int:
        """One projected gradient for each query."""
        return self.num_queries

    @property
    def forwards(self) -> int:
        """Two for each query."""
        return 2 * self.num_queries

    def points(self, step: int) -> list[Point]:
        """See :class:`zoft.estimators.Estimator`."""
        return [
            Point(f"loss_{sign} of query {k}", (Term(step, k, scale),))
            for k in range(self.num_queries)
            for sign, scale in (("plus", self.zo_eps), ("minus", -self.zo_eps))
        ]

    def estimate(self, losses: Sequence[float]) -> Estimate:
        """See :class:`zoft.estimators.Estimator`."""
        pairs = zip(losses[::2], losses[1::2], strict=True)
        projected_grads = tuple((plus - minus) / (2.0 * self.zo_eps) for plus, minus in pairs)
        return Estimate(sum(losses) / len(losses), projected_grads)

    def projected_grads(self, scalars: Sequence[float]) -> list[float]:
        """See :class:`zoft.estimators.Estimator`."""
        return list(scalars)
