"""Private steps on a linear model, on which an example's slope is what a test makes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import zoft
from zoft.privacy import PrivacyConfig, PrivacyPlan
from zoft.types import LossFn

BATCH = 8


def plan(
    *,
    noise_multiplier: float = 1.0,
    clip_threshold: float | None = 1.0,
    num_scalars: int = 1,
    num_examples: int = 64,
    expected_batch_size: int = BATCH,
    steps: int = 1000,
    **config: Any,
) -> PrivacyPlan:
    """A plan with a given scale of noise."""
    is_gaussian = config.get("dp_mechanism", "gaussian") == "gaussian"
    return PrivacyPlan.of(
        PrivacyConfig(
            dp_noise_multiplier=noise_multiplier,
            dp_clip_threshold=clip_threshold,
            dp_target_delta=1e-5 if is_gaussian else None,
            **config,
        ),
        num_examples=num_examples,
        expected_batch_size=expected_batch_size,
        steps=steps,
        num_scalars=num_scalars,
    )


def start(log: Path, *, num_queries: int = 1, seed: int = 0, lr: float = 1e-3, **settings: Any) -> zoft.ZOOptimizer:
    """An optimizer of twelve weights at one, at the start of a private run."""
    model = nn.Linear(12, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(model.weight)
    config = zoft.ZOConfig(method="mezo", num_queries=num_queries, zo_eps=1e-2, seed=seed)
    return zoft.ZOOptimizer(model, lr, config, privacy=plan(num_scalars=num_queries, **settings), log=log)


def closures(opt: zoft.ZOOptimizer, examples: Sequence[float]) -> list[LossFn]:
    """One closure for each example: a number by which its loss, and so its vector of slopes, is multiplied.

    Each example has an input of its own, and so a direction of its own among those of the vectors.
    """
    model = opt.engine.model

    def closure(number: int, scale: float) -> LossFn:
        x = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(number))
        return lambda: scale * model(x).squeeze()

    return [closure(number, scale) for number, scale in enumerate(examples)]
