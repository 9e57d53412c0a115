"""Fused CPU kernels of the noise specification (Numba).

One native call serves many tensors: it walks a list of work items (pointers, lengths, addresses), makes
noise for up to 4,096 elements at a time in a buffer that stays in the L1 cache, and combines it with the
weights in one pass over memory. Threads split the concatenated elements, so the split never shows in the
result. Plain loops over 32 lanes are what lets LLVM vectorise; floating-point contraction stays off.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence

import numpy as np
import torch

from zoft.noise import spec
from zoft.noise._cpu_kernel import combine_parts
from zoft.noise._team import run_in_team
from zoft.noise.spec import Distribution, Rounding, Span, Term

_DTYPE_CODE = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
_DISTRIBUTION_CODE = {"gaussian": 0, "rademacher": 1}
_INT64, _FLOAT64 = struct.Struct("q"), struct.Struct("d")
# Below this many elements waking a second core costs more than it saves.
_MIN_ELEMENTS_PER_THREAD = 16_384
_PARTS_PER_THREAD = 8
_FIELDS = 6  # numbers of a work item


def supports(tensor: torch.Tensor) -> bool:
    """Whether the kernels can work on this tensor."""
    return tensor.device.type == "cpu" and tensor.dtype in _DTYPE_CODE


def _run(
    items: array[int],
    total: int,
    dtype: torch.dtype,
    terms: Sequence[Term],
    key: int,
    distribution: Distribution,
    decay: float = 1.0,
    stochastic: bool = False,
    rounding_step: int = 0,
) -> None:
    """Run the kernel on work items, six numbers each; see :func:`zoft.noise._cpu_kernel.combine_parts`."""
    # All of torch's team or nobody: OpenMP ends the threads that a smaller team leaves over, and torch's next
    # operation then waits for new ones to start.
    threads = torch.get_num_threads() if total >= 2 * _MIN_ELEMENTS_PER_THREAD else 1
    parts = 1 if threads == 1 else min(threads * _PARTS_PER_THREAD, total // (_MIN_ELEMENTS_PER_THREAD // 2))
    call = array(
        "q",
        (
            0,
            parts,
            total,
            len(items) // _FIELDS,
            len(terms),
            _DTYPE_CODE[dtype],
            _DISTRIBUTION_CODE[distribution],
            key & 0xFFFFFFFF,
            key >> 32,
            stochastic and dtype in (torch.bfloat16, torch.float16),
            rounding_step,
            _bits(decay),
        ),
    )
    for step, query, coefficient in terms:
        call.extend((step, query, _bits(coefficient)))
    call.extend(items)
    run_in_team(combine_parts.address, call.buffer_info()[0], threads)


def _bits(value: float) -> int:
    bits: int = _INT64.unpack(_FLOAT64.pack(value))[0]
    return bits


def combine(
    spans: Sequence[Span],
    terms: Sequence[Term],
    *,
    key: int,
    distribution: Distribution,
    decay: float = 1.0,
    rounding: Rounding = "nearest",
    rounding_step: int = 0,
    mirrors: Sequence[torch.Tensor] = (),
) -> None:
    """Fused version of :func:`zoft.noise.combine`; see there. All spans share one dtype."""
    spec.check_addresses(terms, [span.parameter for span in spans], rounding_step)
    items, total = array("q"), 0
    also = [mirror.data_ptr() for mirror in mirrors] or [0] * len(spans)
    for span, mirror in zip(spans, also, strict=True):
        count = span.out.numel()
        items.extend((span.out.data_ptr(), span.base.data_ptr(), count, span.start, span.parameter, mirror))
        total += count
    dtype = spans[0].out.dtype
    _run(items, total, dtype, terms, key, distribution, decay, rounding == "stochastic", rounding_step)


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
    spec.check_addresses(terms, [parameter], 0)
    count, width = out.shape
    index = rows.to(torch.int64).numpy()
    row_bytes = width * base.element_size()
    table = np.zeros((count, _FIELDS), np.int64)
    table[:, 0] = out.data_ptr() + np.arange(count) * row_bytes
    table[:, 1] = base.data_ptr() + index * row_bytes
    table[:, 2] = width
    table[:, 3] = index * width
    table[:, 4] = parameter
    items = array("q", table.tobytes())
    _run(items, count * width, base.dtype, terms, key, distribution)
