"""The registered methods, as parameters of tests."""

from __future__ import annotations

from typing import Any

import pytest

from zoft.registry import method_names

# One for each way in which methods differ to what is around them: two-sided, one-sided with a clean loss, and one that
# keeps numbers for each weight.
DISTINCT = ("mezo", "fzoo", "adam")


def methods(*quick: str) -> list[Any]:
    """Return all methods; those not among ``quick`` (by default :data:`DISTINCT`) are left to the slow tier."""
    chosen = quick or DISTINCT
    return [name if name in chosen else pytest.param(name, marks=pytest.mark.slow) for name in method_names()]
