"""Central differences of each example's loss, every example along a direction of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from zoft.estimators.protocol import Point
from zoft.examples import at_place, of_examples
from zoft.noise import Term
from zoft.types import Estimate


@dataclass(frozen=True)
class PerExample:
    """``(loss_plus_i - loss_minus_i) / (2 zo_eps B)`` for each of a step's B examples.

    Their sum over z_i estimates the gradient. Examples of all micro-batches and processes have places of their own;
    places left over hold zeros; see :mod:`zoft.examples`.

    Attributes:
        num_queries: Places, and so directions, a step, >= 1.
        zo_eps: Perturbation scale.
    """

    num_queries: int
    zo_eps: float

    kind = "slopes of single examples"

    @property
    def num_scalars(self) -> int:
        """One for each place."""
        return self.num_queries

    @property
    def forwards(self) -> int:
        """Two of the whole batch."""
        return 2

    def points(self, step: int) -> list[Point]:
        """See :class:`zoft.estimators.Estimator`; a point's terms are the examples' own offsets, by place."""
        return [
            Point(name, tuple(Term(step, place, scale) for place in range(self.num_queries)), self.num_queries)
            for name, scale in (("loss_plus", self.zo_eps), ("loss_minus", -self.zo_eps))
        ]

    def estimate(self, losses: Sequence[float]) -> Estimate:
        """Combine each example's share ``loss_i / B`` of the mean loss, all at plus and then all at minus."""
        plus, minus = losses[: self.num_queries], losses[self.num_queries :]
        pairs = zip(plus, minus, strict=True)
        slopes = tuple(at_place((a - b) / (2.0 * self.zo_eps)) if a or b else 0.0 for a, b in pairs)
        return Estimate(math.fsum(losses) / 2.0, slopes)

    def projected_grads(self, scalars: Sequence[float]) -> list[float]:
        """See :class:`zoft.estimators.Estimator`: those of the places that were taken, of the examples' own losses."""
        slopes = of_examples(scalars)
        return [slope * len(slopes) for slope in slopes]
