"""The autograd seam: a loss whose backward pass only sums a handful of scalars.

So whatever a training loop does to losses (scaling, accumulation) happens to the scalars too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from zoft.distributed import Replicas
from zoft.engine import ZOEngine, float32
from zoft.errors import ConfigError
from zoft.step_size import StepSize
from zoft.types import LossFn, StepRecord


class Seam:
    """Means over micro-batches, as the loop weighs them, and over processes."""

    def __init__(self, engine: ZOEngine, replicas: Replicas, step_size: StepSize) -> None:
        self._engine, self._replicas, self._step_size = engine, replicas, step_size
        # One element for each scalar, one for the loss, and those that the step size goes by. It belongs to no
        # parameter group, so that gradient clipping never sees it. float64, so that micro-batches sum without loss.
        length = engine.num_scalars + 1 + step_size.num_values
        self._scalars = torch.zeros(length, dtype=torch.float64, requires_grad=True)

    def note(self, closure: LossFn) -> torch.Tensor:
        """See :class:`zoft.optim.gathering.Gathering`."""
        values = self._evaluated_on(closure)
        return self._loss(values[self._engine.num_scalars], values)

    def shown(self, record: StepRecord) -> torch.Tensor:
        """See :class:`zoft.optim.gathering.Gathering`."""
        return self._loss(record.loss, [0.0] * len(self._scalars))

    def record(self, closure: Callable[[], Any] | None, lrs: Sequence[float]) -> StepRecord:
        """See :class:`zoft.optim.gathering.Gathering`."""
        total = self._replicas.mean(
            self._total(closure), same={f"lr of parameter group {group}": lr for group, lr in enumerate(lrs)}
        )
        count = self._engine.num_scalars + 1
        record = self._engine.record(total[:count], lrs, self._step_size.probe(total[count:]))
        return replace(record, lrs=float32(self._step_size.rates(record, lrs)))

    def forget(self) -> None:
        """See :class:`zoft.optim.gathering.Gathering`."""
        self._scalars.grad = None

    def _loss(self, value: float, scalars: Sequence[float]) -> torch.Tensor:
        slopes = torch.tensor(scalars, dtype=torch.float64)
        with torch.enable_grad():
            seam = ((self._scalars - self._scalars.detach()) * slopes).sum()
            loss = torch.tensor(value, dtype=torch.float32, device=self._engine.loss_device)
            return loss + seam.to(loss.device, torch.float32)

    def _total(self, closure: Callable[[], Any] | None) -> list[float]:
        if closure is not None:
            return self._evaluated_on(closure)
        if self._scalars.grad is None:
            raise ConfigError(
                "step() has nothing to go by: pass a closure that returns the loss, or call "
                "optimizer.loss(closure).backward() first."
            )
        total: list[float] = self._scalars.grad.tolist()
        return total

    def _evaluated_on(self, loss_fn: LossFn) -> list[float]:
        """Return the scalars of one micro-batch, its loss, and what the step size goes by."""
        estimate = self._engine.estimate(loss_fn, self._replicas.share)
        points = self._step_size.points()
        losses = self._engine.evaluate(loss_fn, points, self._replicas.share) if points else []
        return [*estimate.scalars, estimate.loss, *self._step_size.measured(losses)]
