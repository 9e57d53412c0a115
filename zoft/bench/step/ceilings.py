"""What the machine can do at most, measured in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import torch

from zoft.bench.step.processes import in_process
from zoft.bench.step.roofline import Ceilings
from zoft.bench.step.timing import seconds_of
from zoft.bench.step.workload import DTYPES

__all__ = ["copy_rate", "measure_ceilings"]

_TRIES = 5  # of which the best counts: a ceiling is what is possible
_LONG_ENOUGH = 0.1  # seconds of a product, beyond which larger ones are not tried
_WIDTHS = (512, 1024, 2048, 4096, 8192, 16384)
_COPY_BYTES = 2**28  # far beyond what caches hold


def measure_ceilings(dtype: str, device: str) -> Ceilings:
    """Measure the rate of large matrix products and of a large copy, with as many threads as steps have.

    Args:
        dtype: One of `zoft.bench.step.workload.DTYPES`: that of the products.
        device: Where.
    """
    return Ceilings(**in_process(device, _measure, dtype, device))


def _measure(dtype: str, device: str) -> dict[str, float]:
    where = torch.device(device)
    return asdict(Ceilings(_product_rate(DTYPES[dtype], where, _WIDTHS), copy_rate(where)))


@torch.inference_mode()
def _product_rate(dtype: torch.dtype, device: torch.device, widths: tuple[int, ...]) -> float:
    """Return FLOPs a second of square products; of growing ones the best, since small ones may not fill a device."""
    rate = 0.0
    for width in widths:
        # As a linear layer multiplies: by a transposed matrix.
        a, b = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
        out = torch.empty_like(a)
        seconds = _best(lambda a=a, b=b, out=out: torch.mm(a, b.t(), out=out), device)  # type: ignore[misc]
        rate = max(rate, 2 * width**3 / seconds)
        if seconds > _LONG_ENOUGH:
            break
    return rate


@torch.inference_mode()
def copy_rate(device: torch.device, size: int | None = None) -> float:
    """Return bytes a second of a copy, those read and those written: a large one, or of so many bytes."""
    if size is None:
        size = _COPY_BYTES if device.type == "cpu" else 4 * _COPY_BYTES  # a GPU is done with less before it is at speed
    source = torch.ones(size // 4, device=device)
    target = torch.zeros_like(source)
    return 2 * source.nbytes / _best(lambda: target.copy_(source), device)


def _best(work: Callable[[], object], device: torch.device) -> float:
    work()
    return min(seconds_of(work, device) for _ in range(_TRIES))
