"""Forward differences against one clean loss: q + 1 evaluations for q directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zoft.estimators.protocol import Point
from zoft.noise import Term
from zoft.types import Estimate


@dataclass(frozen=True)
class OneSided:
    """``projected_grad_k = (loss_plus_k - loss_clean) / zo_eps`` for each query k.

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
        """One for each query and the clean one."""
        return self.num_queries + 1

    def points(self, step: int) -> list[Point]:
        """See :class:`zoft.estimators.Estimator`."""
        perturbed = [Point(f"loss_plus of query {k}", (Term(step, k, self.zo_eps),)) for k in range(self.num_queries)]
        return [Point("loss_clean", ()), *perturbed]

    def estimate(self, losses: Sequence[float]) -> Estimate:
        """See :class:`zoft.estimators.Estimator`."""
        clean, *perturbed = losses
        return Estimate(clean, tuple((loss - clean) / self.zo_eps for loss in perturbed))

    def projected_grads(self, scalars: Sequence[float]) -> list[float]:
        """See :class:`zoft.estimators.Estimator`."""
        return list(scalars)
