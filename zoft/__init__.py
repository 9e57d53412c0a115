"""zoft: memory-efficient zeroth-order fine-tuning. Forward passes only, at the memory of inference."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoft.errors import ZoftError, ZoftWarning
    from zoft.hf import ZOCallback, ZOTrainer, ZOTrainerMixin
    from zoft.optim import ZOOptimizer
    from zoft.privacy.config import PrivacyConfig
    from zoft.replay_log import replay
    from zoft.types import ZOConfig

__version__ = "0.1.0"

# Public names are loaded when first used, so that `import zoft` does not import torch.
_HOMES = {
    "PrivacyConfig": "zoft.privacy.config",
    "ZOCallback": "zoft.hf",
    "ZOConfig": "zoft.types",
    "ZOOptimizer": "zoft.optim",
    "ZOTrainer": "zoft.hf",
    "ZOTrainerMixin": "zoft.hf",
    "ZoftError": "zoft.errors",
    "ZoftWarning": "zoft.errors",
    "replay": "zoft.replay_log",
}

__all__ = [
    "PrivacyConfig",
    "ZOCallback",
    "ZOConfig",
    "ZOOptimizer",
    "ZOTrainer",
    "ZOTrainerMixin",
    "ZoftError",
    "ZoftWarning",
    "__version__",
    "replay",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'zoft' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
