"""Weights worked on a block at a time, so that what is made for them never stands whole."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from zoft.noise.spec import Span


def block_size(device: torch.device) -> int:
    """Return how many elements are made at once: so many that Python's share of the time is small."""
    return 2**19 if device.type == "cpu" else 2**23


def blocks_of(span: Span, width: int) -> Iterator[Span]:
    """Cut a span into blocks, which end where rows of so many elements do."""
    out, base = span.out.view(-1), span.base.view(-1)
    rows, stop = max(1, block_size(out.device) // max(1, width)), span.start + out.numel()
    low = span.start
    while low < stop:
        high = min(stop, (low // width + rows) * width)
        part = slice(low - span.start, high - span.start)
        yield Span(out[part], base[part], span.parameter, low)
        low = high


def rows_of(span: Span, width: int) -> tuple[int, int]:
    """Return the first row that a part of a matrix has elements in, and the one behind its last."""
    return span.start // width, -(-(span.start + span.base.numel()) // width)
