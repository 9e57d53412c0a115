"""Fused CPU kernels of the noise specification (Numba).

One native call serves many tensors: it walks a list of work items (pointers, lengths, addresses), makes
noise for up to 4,096 elements at a time in a buffer that stays in the L1 cache, and combines it with the
weights in one pass over memory. Threads split the concatenated elements, so the split never shows in the
result. Plain loops over 32 lanes are what lets LLVM vectorise; floating-point contraction stays off.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from os import getpid
from typing import Any

import numpy as np
import torch

from zoft.noise import spec
from zoft.noise._cpu_kernel import combine_items
from zoft.noise.spec import Distribution, Rounding, Span, Term

_DTYPE_CODE = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
_DISTRIBUTION_CODE = {"gaussian": 0, "rademacher": 1}
# Below this many elements a thread hand-over costs more than it saves.
_MIN_ELEMENTS_PER_THREAD = 65_536


def supports(tensor: torch.Tensor) -> bool:
    """Whether the kernels can work on this tensor."""
    return tensor.device.type == "cpu" and tensor.dtype in _DTYPE_CODE


@lru_cache(maxsize=1)
def _pool(_process: int, workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="zoft-noise")


def _run(items: tuple[np.ndarray, ...], total: int, *arguments: Any) -> None:
    threads = min(torch.get_num_threads(), max(1, total // _MIN_ELEMENTS_PER_THREAD))
    cuts = [total * part // threads for part in range(threads + 1)]
    others = []
    if threads > 1:
        pool = _pool(getpid(), torch.get_num_threads())  # by process: threads do not survive a fork
        others = [
            pool.submit(combine_items, *items, cuts[i], cuts[i + 1], *arguments) for i in range(1, threads)
        ]
    combine_items(*items, *cuts[:2], *arguments)
    wait(others)
    for future in others:
        future.result()


def _arguments(
    dtype: torch.dtype,
    terms: Sequence[Term],
    key: int,
    distribution: Distribution,
    decay: float,
    stochastic: bool,
    rounding_step: int,
) -> tuple[Any, ...]:
    spec.check_terms(terms)
    return (
        _DTYPE_CODE[dtype],
        _DISTRIBUTION_CODE[distribution],
        np.uint32(key & 0xFFFFFFFF),
        np.uint32(key >> 32),
        np.array([term.step for term in terms], np.uint32),
        np.array([term.query for term in terms], np.uint32),
        np.array([term.coefficient for term in terms], np.float64),
        decay,
        stochastic and dtype in (torch.bfloat16, torch.float16),
        np.uint32(rounding_step),
    )


def combine(
    spans: Sequence[Span],
    terms: Sequence[Term],
    *,
    key: int,
    distribution: Distribution,
    decay: float = 1.0,
    rounding: Rounding = "nearest",
    rounding_step: int = 0,
) -> None:
    """Fused version of :func:`zoft.noise.combine`; see there. All spans share one dtype."""
    counts = [span.out.numel() for span in spans]
    items = (
        np.array([span.out.data_ptr() for span in spans], np.uint64),
        np.array([span.base.data_ptr() for span in spans], np.uint64),
        np.array(counts, np.int64),
        np.array([span.start for span in spans], np.int64),
        np.array([span.parameter for span in spans], np.uint32),
    )
    dtype = spans[0].out.dtype
    stochastic = rounding == "stochastic"
    _run(
        items,
        sum(counts),
        *_arguments(dtype, terms, key, distribution, decay, stochastic, rounding_step),
    )


def combine_rows(
    out: torch.Tensor,
    base: torch.Tensor,
    rows: torch.Tensor,
    parameter: int,
    terms: Sequence[Term],
    *,
    key: int,
    distribution: Distribution,
) -> None:
    """Fused version of :func:`zoft.noise.combine_rows`; see there."""
    count, width = out.shape
    index = rows.to(torch.int64).numpy()
    row_bytes = np.uint64(width * base.element_size())
    items = (
        np.uint64(out.data_ptr()) + np.arange(count, dtype=np.uint64) * row_bytes,
        np.uint64(base.data_ptr()) + index.astype(np.uint64) * row_bytes,
        np.full(count, width, np.int64),
        index * width,
        np.full(count, parameter, np.uint32),
    )
    _run(items, count * width, *_arguments(base.dtype, terms, key, distribution, 1.0, False, 0))
