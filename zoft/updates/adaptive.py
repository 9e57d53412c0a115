"""One adaptive step size for all weights, from the size of the projected gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from zoft.noise import Term
from zoft.updates.running import RunningMean


class ScalarAdaptive:
    """``g = mean_k p_k z_k / (sqrt(v) + epsilon)``, v the running mean of the projected gradients' mean square."""

    def __init__(self, beta: float, epsilon: float) -> None:
        self._square, self._epsilon = RunningMean(beta), epsilon

    def gradient(self, step: int, scalars: Sequence[float]) -> list[Term]:
        """See :class:`zoft.updates.Update`."""
        square = self._square.take(math.fsum(s * s for s in scalars) / len(scalars))
        size = math.sqrt(square) + self._epsilon
        return [Term(step, k, scalar / (len(scalars) * size)) for k, scalar in enumerate(scalars)]

    def state_dict(self) -> dict[str, Any]:
        """See :class:`zoft.updates.running.RunningMean`."""
        return self._square.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`zoft.updates.Update`."""
        self._square.load_state_dict(state)
