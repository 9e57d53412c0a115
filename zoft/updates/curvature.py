"""Slopes weighted down where the loss curves."""

from __future__ import annotations

from collections.abc import Sequence

from zoft.noise import Term
from zoft.updates.stateless import Stateless


class CurvatureWeighted(Stateless):
    """``g = (1/q) sum_k p_k z_k / max(1, |c_k|^power)``, for slopes p and curvatures c along the directions."""

    def __init__(self, power: float) -> None:
        self._power = power

    def gradient(self, step: int, scalars: Sequence[float]) -> list[Term]:
        """See :class:`zoft.updates.Update`; the scalars are all slopes, then all curvatures."""
        count = len(scalars) // 2
        slopes, curvatures = scalars[:count], scalars[count:]
        weights = [1.0 / max(1.0, abs(c) ** self._power) for c in curvatures]
        return [Term(step, k, p * w / count) for k, (p, w) in enumerate(zip(slopes, weights, strict=True))]
