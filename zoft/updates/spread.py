"""Normalise the step by the measured spread of the losses (FZOO, arXiv 2506.09034)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from zoft.noise import Term
from zoft.updates.running import RunningMean


class SpreadNormalized:
    """``g = (1/q) sum_k p_k z_k / sqrt(v)``, for projected gradients p and the running mean v of their variance.

    The sample variance (q - 1 in the denominator) of one-sided p is that of the losses themselves over ``zo_eps^2``, so
    the step depends on neither's scale. As long as all losses are equal there is no direction to prefer, and g is zero.
    """

    def __init__(self, beta: float) -> None:
        """Decay the running mean by ``beta`` in [0, 1); 0: each step's own variance."""
        self._variance = RunningMean(beta)

    def gradient(self, step: int, scalars: Sequence[float]) -> list[Term]:
        """See :class:`zoft.updates.Update`."""
        # Written out, because the last bit of statistics.stdev depends on Python's version, and replay must not.
        mean = math.fsum(scalars) / len(scalars)
        variance = math.fsum((s - mean) * (s - mean) for s in scalars) / (len(scalars) - 1)
        spread = math.sqrt(self._variance.take(variance))
        scale = 0.0 if spread == 0.0 else 1.0 / (len(scalars) * spread)
        return [Term(step, k, scalar * scale) for k, scalar in enumerate(scalars)]

    def state_dict(self) -> dict[str, Any]:
        """See :class:`zoft.updates.RunningMean`."""
        return self._variance.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`zoft.updates.Update`."""
        self._variance.load_state_dict(state)
