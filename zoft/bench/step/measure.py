"""One contender's figures, taken in a process of its own."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from zoft.bench.meters import MemoryMeter
from zoft.bench.step.contenders import contender
from zoft.bench.step.counted import count_forward
from zoft.bench.step.energy import joules
from zoft.bench.step.processes import in_process
from zoft.bench.step.roofline import Work, step_work
from zoft.bench.step.timing import seconds_of
from zoft.bench.step.workload import Workload

__all__ = ["Figures", "measure"]

_ENERGY_SECONDS = 1.0  # of steps whose energy is counted together: a GPU brings its counter up to date now and then


@dataclass(frozen=True)
class Figures:
    """What was measured.

    Attributes:
        name: The contender.
        parameters: How many the model has.
        trained: How many of them it trains.
        forwards: How many forwards a step cannot do without; None for training by gradients.
        step_seconds: Median time of a step.
        forward_seconds: Median time of one plain forward, measured in between.
        step_seconds_all: The time of each step.
        tokens_per_second: Of the batch, counted once.
        peak_bytes: Peak memory while it trained; None where it cannot be measured.
        joules_per_step: None where the device does not say.
        forward_flops: Of one plain forward.
        forward_bytes: Of the weights that it reads.
        step_flops: That a step cannot do without.
        step_bytes: That a step must at least read and write.
    """

    name: str
    parameters: int
    trained: int
    forwards: int | None
    step_seconds: float
    forward_seconds: float
    step_seconds_all: list[float]
    tokens_per_second: float
    peak_bytes: int | None
    joules_per_step: float | None
    forward_flops: int
    forward_bytes: int
    step_flops: int
    step_bytes: int

    @property
    def step_work(self) -> Work:
        """What a step must at least do."""
        return Work(self.step_flops, self.step_bytes)


def measure(workload: Workload, name: str, rounds: int) -> Figures:
    """Measure one contender in another process; see :func:`zoft.bench.step.processes.in_process`.

    Steps and plain forwards take turns, so that what slows the machine for a while slows both.

    Raises:
        ConfigError: There is no such contender.
        torch.OutOfMemoryError: A GPU's memory is too small.
    """
    contender(name)  # refused here rather than there
    return Figures(**in_process(workload.device, _measure, asdict(workload), name, rounds))


def _measure(workload_settings: dict[str, Any], name: str, rounds: int) -> dict[str, Any]:
    workload, chosen = Workload(**workload_settings), contender(name)
    device = torch.device(workload.device)
    model, loss = workload.load(chosen.train)
    forward, step = contender("forward").prepare(model, loss), chosen.prepare(model, loss)
    for warm_up in (forward, step, step):
        warm_up()
    plain = count_forward(model, loss)
    least = step_work(
        plain, forwards=chosen.forwards, weight_reads=chosen.weight_reads, written=chosen.written_bytes(model)
    )
    count = chosen.forwards or 1
    forwards = [seconds_of(forward, device, count) / count]
    meter = MemoryMeter(device)
    steps = []
    for _ in range(rounds):
        steps.append(seconds_of(step, device))
        forwards.append(seconds_of(forward, device, count) / count)
    step_seconds = statistics.median(steps)
    peak = meter.peak_bytes()
    return asdict(
        Figures(
            name=name,
            parameters=sum(p.numel() for p in model.parameters()),
            trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
            forwards=chosen.forwards,
            step_seconds=step_seconds,
            forward_seconds=statistics.median(forwards),
            step_seconds_all=steps,
            tokens_per_second=workload.tokens / step_seconds,
            peak_bytes=peak,
            joules_per_step=_joules_per(step, device, math.ceil(_ENERGY_SECONDS / step_seconds)),
            forward_flops=plain.flops,
            forward_bytes=plain.bytes,
            step_flops=least.flops,
            step_bytes=least.bytes,
        )
    )


def _joules_per(step: Callable[[], object], device: torch.device, times: int) -> float | None:
    before = joules(device)
    if before is None:
        return None
    seconds_of(step, device, times)
    after = joules(device)
    return None if after is None else (after - before) / times
