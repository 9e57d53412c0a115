"""Slopes and the whole matrix of curvatures over a step's directions: the quadratic model on their span."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zoft.estimators.curvature import TwoSidedWithCurvature
from zoft.estimators.protocol import Point
from zoft.noise import Term
from zoft.types import Estimate


@dataclass(frozen=True)
class TwoSidedWithHessian:
    """All slopes, all curvatures ``z_k^T H z_k``, then ``z_i^T H z_j`` for i < j, row by row.

    ``(loss(+i +j) - loss(+i) - loss(+j) + loss_clean) / zo_eps^2`` estimates ``z_i^T H z_j``; the rest is as in
    :class:`TwoSidedWithCurvature`.

    Attributes:
        num_queries: Directions a step, q.
        zo_eps: Perturbation scale.
    """

    num_queries: int
    zo_eps: float

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Queries i < j, in the order of their scalars."""
        return [(i, j) for i in range(self.num_queries) for j in range(i + 1, self.num_queries)]

    kind = "slopes and second derivatives"

    @property
    def num_scalars(self) -> int:
        """The slopes, q, and q (q + 1) / 2 curvatures."""
        return 2 * self.num_queries + len(self.pairs)

    @property
    def forwards(self) -> int:
        """Two for each query, one for each pair, and the clean one."""
        return 2 * self.num_queries + len(self.pairs) + 1

    @property
    def _diagonal(self) -> TwoSidedWithCurvature:
        return TwoSidedWithCurvature(self.num_queries, self.zo_eps)

    def points(self, step: int) -> list[Point]:
        """See :class:`zoft.estimators.Estimator`."""
        both = [
            Point(f"loss_plus of queries {i} and {j}", (Term(step, i, self.zo_eps), Term(step, j, self.zo_eps)))
            for i, j in self.pairs
        ]
        return [*self._diagonal.points(step), *both]

    def estimate(self, losses: Sequence[float]) -> Estimate:
        """See :class:`zoft.estimators.Estimator`."""
        count = self._diagonal.forwards
        clean, plus = losses[0], losses[1:count:2]
        both = zip(self.pairs, losses[count:], strict=True)
        square = self.zo_eps * self.zo_eps
        mixed = [((loss - plus[i]) - (plus[j] - clean)) / square for (i, j), loss in both]
        return Estimate(clean, (*self._diagonal.estimate(losses[:count]).scalars, *mixed))

    def projected_grads(self, scalars: Sequence[float]) -> list[float]:
        """See :class:`zoft.estimators.Estimator`."""
        return list(scalars[: self.num_queries])
