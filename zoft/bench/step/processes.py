"""Where something is measured: not in the process that asks."""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from typing import Any

import torch

__all__ = ["in_process"]


def in_process(device: str, work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns in another process.

    On a CPU, where memory is what a process holds, in a fresh one; on a GPU, where torch counts it, in one for all: to
    start a process there takes longer than to measure.

    Args:
        device: What is measured.
        work: A function of a module.
        *arguments: What it is called with.
    """
    if torch.device(device).type != "cpu":
        return _shared().submit(_alone, work, *arguments).result()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


@cache
def _shared() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def _alone(work: Callable[..., Any], *arguments: Any) -> Any:
    # Of what ran before; if that raised, only now does nothing hold its model any more.
    gc.collect()
    torch.cuda.empty_cache()
    return work(*arguments)
