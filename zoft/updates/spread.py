"""Normalise the step by the measured spread of the losses (FZOO, arXiv 2506.09034)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from zoft.noise import Term
from zoft.updates.stateless import Stateless


class SpreadNormalized(Stateless):
    """``g = (1/q) sum_k p_k z_k / std(p)``, for projected gradients p.

    The sample standard deviation (q - 1 in the denominator) of one-sided p is that of the losses themselves over
    ``zo_eps``, so the step depends on neither's scale. When all are equal there is no direction to prefer, and g is
    zero.
    """

    def gradient(self, step: int, scalars: Sequence[float]) -> list[Term]:
        """See :class:`zoft.updates.Update`."""
        # Written out, because the last bit of statistics.stdev depends on Python's version, and replay must not.
        mean = math.fsum(scalars) / len(scalars)
        variance = math.fsum((s - mean) * (s - mean) for s in scalars) / (len(scalars) - 1)
        spread = math.sqrt(variance)
        scale = 0.0 if spread == 0.0 else 1.0 / (len(scalars) * spread)
        return [Term(step, k, scalar * scale) for k, scalar in enumerate(scalars)]
