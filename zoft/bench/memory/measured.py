"""What a way of training takes at its peak, measured in another process."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import torch

from zoft.bench.meters import MemoryMeter
from zoft.bench.step.contenders import contender
from zoft.bench.step.processes import in_process
from zoft.bench.step.workload import Workload

__all__ = ["measure_peak"]

_STEPS = 2  # an optimizer makes its state in the first


def measure_peak(workload: Workload, name: str) -> int | None:
    """Return the peak in bytes of loading and taking two steps, beyond what the process takes without a model.

    Returns:
        None where it cannot be measured (in RAM, elsewhere than on Linux).

    Raises:
        ConfigError: There is no such contender.
    """
    contender(name)  # refused here rather than there
    peak: int | None = in_process(workload.device, _measure, asdict(workload), name)
    return peak


def _measure(workload_settings: dict[str, Any], name: str) -> int | None:
    workload = Workload(**workload_settings)
    # Libraries load and compile what they need on a model that is next to nothing.
    _train(replace(workload, model="shape:llama-10m", batch_size=1, length=8), name, None)
    gc.collect()
    with suppress(AttributeError):  # not everywhere; Linux's C library keeps what is freed, and would use it unseen
        ctypes.CDLL(None).malloc_trim(0)
    return _train(workload, name, MemoryMeter(torch.device(workload.device)))


def _train(workload: Workload, name: str, before: MemoryMeter | None) -> int | None:
    model, loss = workload.load(contender(name).train)
    gc.collect()
    # What loading took is over: the peak is that of the steps.
    meter = MemoryMeter(torch.device(workload.device))
    step = contender(name).prepare(model, loss)
    for _ in range(_STEPS):
        step()
    peak = meter.peak_bytes()
    return None if peak is None or before is None else peak - before.base_bytes
