"""Sums of directions that are made and added a block of elements at a time, so that they never stand whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from zoft import noise
from zoft.noise import Rounding, Span


def block_size(device: torch.device) -> int:
    """Return how many elements are made at once: so many that Python's share of the time is small."""
    return 2**18 if device.type == "cpu" else 2**23


def add_blocks(
    span: Span,
    width: int,
    total: Callable[[Span], torch.Tensor],
    *,
    decay: float,
    rounding: Rounding,
    rounding_step: int,
    key: int,
) -> None:
    """Write ``round(decay * base + total(block))`` into each block of a span.

    Args:
        span: Where to read and write.
        width: Blocks end where rows of so many elements do.
        total: The sum at a block's elements, flat, in the precision that updates are computed in.
        decay: See :func:`zoft.noise.add`, as the others.
        rounding: See there.
        rounding_step: See there.
        key: See there.
    """
    out, base = span.out.view(-1), span.base.view(-1)
    for low, high in _blocks(span.start, span.start + out.numel(), width, block_size(out.device)):
        part = slice(low - span.start, high - span.start)
        block = Span(out[part], base[part], span.parameter, low)
        noise.add(block, total(block), decay=decay, rounding=rounding, rounding_step=rounding_step, key=key)


def _blocks(start: int, stop: int, width: int, size: int) -> Iterator[tuple[int, int]]:
    rows = max(1, size // max(1, width))
    low = start
    while low < stop:
        high = min(stop, (low // width + rows) * width)
        yield low, high
        low = high
