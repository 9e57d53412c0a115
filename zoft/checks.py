"""Checks of options: an error names the option, shows the value and says what is expected."""

from __future__ import annotations

import math
from collections.abc import Iterable

from zoft.errors import ConfigError, did_you_mean


def check_count(name: str, value: object) -> None:
    """Raise ConfigError unless a value is an integer >= 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} must be an integer >= 1, got {value!r}.")


def check_finite(name: str, value: object) -> None:
    """Raise ConfigError unless a value is a finite number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ConfigError(f"{name} must be a finite number, got {value!r}.")


def check_share(name: str, value: float) -> None:
    """Raise ConfigError unless a share, or a decay, is in [0, 1)."""
    if not 0.0 <= value < 1.0:
        raise ConfigError(f"{name} must be in [0, 1), got {value!r}.")


def check_positive(name: str, value: float) -> None:
    """Raise ConfigError unless a number is finite and above 0."""
    check_finite(name, value)
    if not value > 0.0:
        raise ConfigError(f"{name} must be > 0, got {value!r}.")


def check_not_negative(name: str, value: float) -> None:
    """Raise ConfigError unless a number is finite and at least 0."""
    check_finite(name, value)
    if not value >= 0.0:
        raise ConfigError(f"{name} must be >= 0, got {value!r}.")


def check_choice(name: str, value: str, known: Iterable[str]) -> None:
    """Raise ConfigError unless a value is among those known."""
    if value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}.{did_you_mean(str(value), known)}")
