"""Running means of scalars, as Adam's: free of the zero that they start from."""

from __future__ import annotations

from typing import Any


class RunningMean:
    """``v = beta v + (1 - beta) x``, read as ``v / (1 - beta^t)`` after t values."""

    def __init__(self, beta: float) -> None:
        self._beta = beta
        self._v, self._decayed = 0.0, 1.0  # beta^t, by multiplication: pow's last bit depends on the machine

    def take(self, x: float) -> float:
        """Take a value in, and return the mean."""
        self._v = self._beta * self._v + (1.0 - self._beta) * x
        self._decayed *= self._beta
        return self._v / (1.0 - self._decayed)

    def state_dict(self) -> dict[str, Any]:
        """Return the sum, and the weight that its start still has."""
        return {"v": self._v, "decayed": self._decayed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._v, self._decayed = float(state["v"]), float(state["decayed"])
