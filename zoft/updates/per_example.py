"""From examples' slopes along directions of their own to one gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence

from zoft.examples import of_examples
from zoft.noise import Term
from zoft.updates.stateless import Stateless


class Sum(Stateless):
    """``g = sum_i s_i z_i``, for scalars that are shares of a mean."""

    def gradient(self, step: int, scalars: Sequence[float]) -> list[Term]:
        """See :class:`zoft.updates.Update`."""
        return [Term(step, k, scalar) for k, scalar in enumerate(scalars)]


class GroupNormalized(Stateless):
    """``g = (1/B) sum_i p_i z_i / std(p)`` over the step's B examples; see :mod:`zoft.examples`.

    std is over the group's mean, B in the denominator. A single example has no group, and its p counts as 1.
    """

    def gradient(self, step: int, scalars: Sequence[float]) -> list[Term]:
        """See :class:`zoft.updates.Update`."""
        group = of_examples(scalars)
        if not group:
            return Sum().gradient(step, scalars)
        mean = math.fsum(group) / len(group)
        spread = math.sqrt(math.fsum((s - mean) * (s - mean) for s in group) / len(group))
        size = spread if len(group) > 1 else abs(group[0])
        scale = 0.0 if size == 0.0 else 1.0 / (len(group) * size)
        return [Term(step, k, scalar * scale) for k, scalar in enumerate(scalars)]
