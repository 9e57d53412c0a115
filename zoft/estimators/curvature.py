"""Central differences with the clean loss, which give the curvature along each direction for one more forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zoft.estimators.protocol import Point
from zoft.estimators.two_sided import TwoSided
from zoft.types import Estimate


@dataclass(frozen=True)
class TwoSidedWithCurvature:
    """All ``projected_grad_k``, then all ``curvature_k = (loss_plus_k - 2 loss_clean + loss_minus_k) / zo_eps^2``.

    ``curvature_k`` estimates ``z_k^T H z_k``, H the Hessian of the loss.

    Attributes:
        num_queries: Directions a step, q.
        zo_eps: Perturbation scale.
    """

    num_queries: int
    zo_eps: float

    kind = "slopes and curvatures"

    @property
    def num_scalars(self) -> int:
        """A slope and a curvature for each query."""
        return 2 * self.num_queries

    @property
    def forwards(self) -> int:
        """Two for each query and the clean one."""
        return 2 * self.num_queries + 1

    def points(self, step: int) -> list[Point]:
        """See :class:`zoft.estimators.Estimator`."""
        return [Point("loss_clean", ()), *TwoSided(self.num_queries, self.zo_eps).points(step)]

    def estimate(self, losses: Sequence[float]) -> Estimate:
        """See :class:`zoft.estimators.Estimator`."""
        clean, *perturbed = losses
        pairs = list(zip(perturbed[::2], perturbed[1::2], strict=True))
        slopes = [(plus - minus) / (2.0 * self.zo_eps) for plus, minus in pairs]
        curvatures = [((plus - clean) + (minus - clean)) / (self.zo_eps * self.zo_eps) for plus, minus in pairs]
        return Estimate(clean, (*slopes, *curvatures))

    def projected_grads(self, scalars: Sequence[float]) -> list[float]:
        """See :class:`zoft.estimators.Estimator`."""
        return list(scalars[: self.num_queries])
