"""The registered methods, as parameters of tests."""

from __future__ import annotations

from typing import Any

import pytest

from zoft.errors import ConfigError
from zoft.method import build_method
from zoft.registry import method_names
from zoft.types import ZOConfig

# One for each way in which methods differ to what is around them: two-sided, one-sided with a clean loss, and one that
# keeps numbers for each weight.
DISTINCT = ("mezo", "fzoo", "adam")


def methods(*quick: str) -> list[Any]:
    """Return all methods; those not among ``quick`` (by default :data:`DISTINCT`) are left to the slow tier."""
    chosen = quick or DISTINCT
    return [name if name in chosen else pytest.param(name, marks=pytest.mark.slow) for name in method_names()]


def claims(name: str, placement: str) -> bool:
    """Whether a method works with a placement. Masks on weights refuse those that move them; derivatives, all."""
    try:
        return placement == "auto" or build_method(ZOConfig(method=name, placement=placement)).evaluation == "moved"
    except ConfigError:
        return False


def plain_placement(name: str) -> str:
    """A placement of the method's that needs no proof of reach, if it has one."""
    return "snapshot" if claims(name, "snapshot") else "auto"
