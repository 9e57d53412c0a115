"""Differential privacy: the mechanism, its sampling, its noise, its cost, and which runs can have it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoft.privacy.config import PrivacyConfig
    from zoft.privacy.plan import PrivacyPlan
    from zoft.privacy.sampling import PoissonBatches

# Loaded when first used: sampling imports opacus, which takes seconds.
_HOMES = {
    "PoissonBatches": "zoft.privacy.sampling",
    "PrivacyConfig": "zoft.privacy.config",
    "PrivacyPlan": "zoft.privacy.plan",
}

__all__ = ["PoissonBatches", "PrivacyConfig", "PrivacyPlan"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'zoft.privacy' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
