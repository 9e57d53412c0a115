"""The mean over queries of projected gradient times direction."""

from __future__ import annotations

from collections.abc import Sequence

from zoft.noise import Term
from zoft.updates.stateless import Stateless


class Average(Stateless):
    """``g = (1/q) sum_k projected_grad_k z_k``."""

    def gradient(self, step: int, scalars: Sequence[float]) -> list[Term]:
        """See :class:`zoft.updates.Update`."""
        return [Term(step, k, scalar / len(scalars)) for k, scalar in enumerate(scalars)]


class FirstAverage(Stateless):
    """The same of the first half of the scalars, the slopes; the second half, curvatures, is left to the rule."""

    def gradient(self, step: int, scalars: Sequence[float]) -> list[Term]:
        """See :class:`zoft.updates.Update`."""
        return Average().gradient(step, scalars[: len(scalars) // 2])
