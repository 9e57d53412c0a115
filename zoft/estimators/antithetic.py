"""Both signs of each direction, with every loss kept: a population whose members are ranked or scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zoft.estimators.protocol import Point
from zoft.estimators.two_sided import TwoSided
from zoft.types import Estimate


@dataclass(frozen=True)
class AntitheticPopulation:
    """The scalars are the losses less their mean, in the order ``loss_plus_0, loss_minus_0, loss_plus_1, ...``.

    Only differences between members count, and those of a few zo_eps would be lost in a large loss's float32.

    Attributes:
        num_queries: Pairs a step; the population is twice as large.
        zo_eps: Perturbation scale, an evolution strategy's sigma.
    """

    num_queries: int
    zo_eps: float

    kind = "losses less their mean"

    @property
    def num_scalars(self) -> int:
        """One for each member."""
        return 2 * self.num_queries

    @property
    def forwards(self) -> int:
        """One for each member."""
        return 2 * self.num_queries

    def points(self, step: int) -> list[Point]:
        """See :class:`zoft.estimators.Estimator`."""
        return TwoSided(self.num_queries, self.zo_eps).points(step)

    def estimate(self, losses: Sequence[float]) -> Estimate:
        """See :class:`zoft.estimators.Estimator`."""
        mean = sum(losses) / len(losses)
        return Estimate(mean, tuple(loss - mean for loss in losses))

    def projected_grads(self, scalars: Sequence[float]) -> list[float]:
        """See :class:`zoft.estimators.Estimator`."""
        return list(TwoSided(self.num_queries, self.zo_eps).estimate(scalars).scalars)
