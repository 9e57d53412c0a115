"""Short runs over a tiny model whose batches differ from step to step."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import zoft
from tests.core.conftest import VOCABULARY, make


def digest(model: nn.Module) -> str:
    """A hash of every bit of a model's state."""
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(name.encode())
        sha.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def batch(step: int, rows: int = 4) -> torch.Tensor:
    """The token ids of one step, [rows, 7]."""
    return torch.randint(3, VOCABULARY, (rows, 7), generator=torch.Generator().manual_seed(100 + step))


@dataclass
class Run:
    """A model with its optimizer; counts the forwards that the loss closures were asked for.

    Attributes:
        style: ``closure``: ``step(closure)``; ``seam``: two micro-batches a step, through ``backward()``.
        bad: Steps whose loss is NaN.
        schedule: Whether the learning rate falls linearly to zero over ``horizon`` steps.
    """

    model: nn.Module
    opt: zoft.ZOOptimizer
    style: str = "closure"
    bad: Collection[int] = ()
    schedule: bool = True
    horizon: int = 12
    calls: int = 0
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        def factor(step: int) -> float:
            return max(0.0, 1.0 - step / self.horizon) if self.schedule else 1.0

        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.opt, factor)

    def _loss(self, step: int, ids: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        loss: torch.Tensor = self.model(input_ids=ids, labels=ids).loss
        return loss * float("nan") if step in self.bad else loss

    def step(self, step: int) -> None:
        ids = batch(step)
        if self.style == "closure":
            loss = self.opt.step(lambda: self._loss(step, ids))
        else:
            for half in ids.chunk(2):
                (self.opt.loss(lambda half=half: self._loss(step, half)) / 2).backward()  # type: ignore[misc]
            loss = self.opt.step()
        self.losses.append(float(loss))
        self.scheduler.step()

    def steps(self, first: int, last: int) -> Run:
        for step in range(first, last):
            self.step(step)
        return self


def start(
    log: Path | None = None,
    *,
    family: str = "llama",
    dtype: torch.dtype = torch.float32,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    param_groups: Any = None,
    style: str = "closure",
    bad: Collection[int] = (),
    schedule: bool = True,
    model_seed: int = 0,
    **config: Any,
) -> Run:
    """A run at its base weights, with a log if there is a path for it."""
    model, _ = make(family, dtype, model_seed)
    opt = zoft.ZOOptimizer(
        model,
        lr,
        zoft.ZOConfig(**{"method": "mezo", "zo_eps": 1e-2, "nonfinite": "skip" if bad else "raise", **config}),
        weight_decay=weight_decay,
        param_groups=param_groups(model) if param_groups else None,
        log=log,
    )
    return Run(model, opt, style, bad, schedule)
