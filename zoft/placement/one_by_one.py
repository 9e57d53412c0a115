"""What most placements do with several points: evaluate one after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from zoft.noise import Term
from zoft.types import LossFn


class OneByOne(ABC):
    """Placements for which several points are as many evaluations."""

    @abstractmethod
    def evaluate(self, terms: Sequence[Term], loss_fn: LossFn) -> tuple[float, ...]:
        """See :class:`zoft.placement.Placement`: what one point yields."""

    def evaluate_all(self, points: Sequence[Sequence[Term]], loss_fn: LossFn) -> list[tuple[float, ...]]:
        """See :class:`zoft.placement.Placement`."""
        return [self.evaluate(terms, loss_fn) for terms in points]
