"""What methods that divide by curvature have in common: what to set, and what is typical."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zoft.checks import check_share
from zoft.errors import ConfigError
from zoft.updates.running import RunningMean


@dataclass(frozen=True)
class CurvatureOptions:
    """Options of methods that divide by curvature.

    Attributes:
        damping: Least curvature that is divided by, as a share of the typical one, in (0, 1].
        beta: Decay of the running mean that says what is typical, in [0, 1).
    """

    damping: float = 0.5
    beta: float = 0.9

    def __post_init__(self) -> None:
        if not 0.0 < self.damping <= 1.0:
            raise ConfigError(f"damping must be in (0, 1], got {self.damping!r}.")
        check_share("beta", self.beta)


class ByCurvature:
    """The state of their updates: the running mean of the curvature's size along directions."""

    def __init__(self, options: CurvatureOptions) -> None:
        self._damping, self._curvature = options.damping, RunningMean(options.beta)

    def least(self, curvatures: Sequence[float]) -> float:
        """Take a step's curvatures in, and return the least one that is to be divided by; 0 if all were 0 so far."""
        return self._damping * self._curvature.take(math.fsum(map(abs, curvatures)) / len(curvatures))

    def state_dict(self) -> dict[str, Any]:
        """The running curvature."""
        return self._curvature.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`zoft.updates.Update`."""
        self._curvature.load_state_dict(state)
