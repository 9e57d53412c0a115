"""A private run over a linear model, whose slopes are known, and what may be watched or altered of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import zoft
from tests.core.runs import digest
from zoft.log_file import ReplayLog
from zoft.privacy import PrivacyConfig, PrivacyPlan
from zoft.privacy.clipping import CLIPPED

DELTA = 1e-5
NUM_EXAMPLES, BATCH, DIMENSION = 40, 4, 6


def promise(**changes: Any) -> PrivacyConfig:
    """By the quick accountant, with noise of a given size."""
    options = {"dp_noise_multiplier": 1.0, "dp_target_delta": DELTA, "dp_accountant": "rdp", "dp_clip_threshold": 1e3}
    return PrivacyConfig(**{**options, **changes})


def plan_of(config: PrivacyConfig | None = None, **changes: Any) -> PrivacyPlan:
    facts = {"num_examples": NUM_EXAMPLES, "expected_batch_size": BATCH, "steps": 12, "num_scalars": 2}
    return PrivacyPlan.of(promise() if config is None else config, **{**facts, **changes})


def examples(count: int = NUM_EXAMPLES) -> torch.Tensor:
    return torch.randn(count, DIMENSION, generator=torch.Generator().manual_seed(5))


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(DIMENSION))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight @ x


class Run:
    """A model, its optimizer, and which examples were looked at."""

    def __init__(self, plan: PrivacyPlan | None, log: Path | None = None, **zo: Any) -> None:
        self.model = Linear()
        self.looked_at: list[int] = []
        options = {"method": "mezo", "zo_eps": 1e-2, "num_queries": 2 if plan is None else plan.num_scalars, **zo}
        self.opt = zoft.ZOOptimizer(self.model, 0.01, zoft.ZOConfig(**options), privacy=plan, log=log)

    def closures(self, numbers: Sequence[int]) -> list[Callable[[], torch.Tensor]]:
        data = examples()

        def of(number: int) -> Callable[[], torch.Tensor]:
            def loss() -> torch.Tensor:
                self.looked_at.append(number)
                return self.model(data[number])  # type: ignore[no-any-return]

            return loss

        return [of(number) for number in numbers]

    def step(self, numbers: Sequence[int] = (0, 1, 2)) -> None:
        self.opt.step(self.closures(numbers))

    @property
    def spending(self) -> zoft.optim.PrivateSteps:
        assert self.opt.privacy is not None
        return self.opt.privacy


def resumed(plan: PrivacyPlan, log: Path) -> Run:
    """A new process that goes on with a log."""
    run = Run(plan)
    run.opt.resume_log(log)
    return run


def replayed(log: Path) -> str:
    model = Linear()
    zoft.replay(model, log)
    return digest(model)


class Noise:
    """Stands in for the mechanism's noise, and keeps what it was added to."""

    def __init__(self, make: Callable[[Sequence[int], str, float], list[int]]) -> None:
        self.sums: list[list[float]] = []
        self.draws: list[list[int]] = []
        self._make = make

    def __call__(self, total: Sequence[int], mechanism: str, noise_multiplier: float) -> list[int]:
        released = self._make(total, mechanism, noise_multiplier)
        self.sums.append([step / CLIPPED for step in total])
        self.draws.append([after - before for after, before in zip(released, total, strict=True)])
        return released


def record_size(log: ReplayLog) -> int:
    return log._layout.size + 4
