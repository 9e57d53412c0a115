"""Checks of options that several kinds of problems have."""

from __future__ import annotations

from collections.abc import Iterable

from zoft.errors import ConfigError, did_you_mean


def check_share(name: str, value: float) -> None:
    """Raise ConfigError unless a share is in [0, 1)."""
    if not 0.0 <= value < 1.0:
        raise ConfigError(f"{name} must be in [0, 1), got {value!r}.")


def check_batch_size(value: int) -> None:
    """Raise ConfigError unless a batch has a row."""
    if value < 1:
        raise ConfigError(f"batch_size must be an integer >= 1, got {value!r}.")


def check_choice(name: str, value: str, known: Iterable[str]) -> None:
    """Raise ConfigError unless a value is among those known."""
    if value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}.{did_you_mean(value, known)}")
