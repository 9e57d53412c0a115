"""One adaptive step size for all weights, from the size of the projected gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from zoft.noise import Term


class ScalarAdaptive:
    """``v = beta v + (1 - beta) mean_k p_k^2``, ``g = mean_k p_k z_k / (sqrt(v / (1 - beta^t)) + epsilon)``.

    The p_k are the step's projected gradients, t counts the steps.
    """

    def __init__(self, beta: float, epsilon: float) -> None:
        self._beta, self._epsilon = beta, epsilon
        self._v, self._decayed = 0.0, 1.0  # beta^t, by multiplication: pow's last bit depends on the machine

    def gradient(self, step: int, scalars: Sequence[float]) -> list[Term]:
        """See :class:`zoft.updates.Update`."""
        square = math.fsum(s * s for s in scalars) / len(scalars)
        self._v = self._beta * self._v + (1.0 - self._beta) * square
        self._decayed *= self._beta
        size = math.sqrt(self._v / (1.0 - self._decayed)) + self._epsilon
        return [Term(step, k, scalar / (len(scalars) * size)) for k, scalar in enumerate(scalars)]

    def state_dict(self) -> dict[str, Any]:
        """The running mean square, and the weight that its start still has."""
        return {"v": self._v, "decayed": self._decayed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`zoft.updates.Update`."""
        self._v, self._decayed = float(state["v"]), float(state["decayed"])
