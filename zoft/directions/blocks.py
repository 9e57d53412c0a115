"""Sums of directions that are made and added a block of elements at a time, so that they never stand whole."""

from __future__ import annotations

from collections.abc import Callable

import torch

from zoft import noise
from zoft.noise import Rounding, Span
from zoft.noise.blocks import blocks_of


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
    for block in blocks_of(span, width):
        noise.add(block, total(block), decay=decay, rounding=rounding, rounding_step=rounding_step, key=key)
