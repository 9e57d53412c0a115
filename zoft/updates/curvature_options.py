"""What methods that divide by curvature have in common to set."""

from __future__ import annotations

from dataclasses import dataclass

from zoft.checks import check_share
from zoft.errors import ConfigError


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
