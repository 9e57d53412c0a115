"""Steps that are taken only where they were seen to help."""

from __future__ import annotations

from collections.abc import Sequence

from zoft.noise import Term
from zoft.updates.stateless import Stateless


class Cautious(Stateless):
    """``g = (1/q) sum_k p_k z_k`` over those queries of which one side was better than the clean loss.

    The better side of query k is ``loss_clean - zo_eps |p_k| + zo_eps^2 c_k / 2``, for slope p and curvature c.
    """

    def __init__(self, zo_eps: float) -> None:
        self._zo_eps = zo_eps

    def gradient(self, step: int, scalars: Sequence[float]) -> list[Term]:
        """See :class:`zoft.updates.Update`; the scalars are all slopes, then all curvatures."""
        count = len(scalars) // 2
        pairs = zip(scalars[:count], scalars[count:], strict=True)
        helps = [self._zo_eps * c / 2.0 < abs(p) for p, c in pairs]
        return [Term(step, k, scalars[k] / count if helps[k] else 0.0) for k in range(count)]
