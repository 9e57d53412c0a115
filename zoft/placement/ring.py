"""Scratch memory that is handed out piece after piece."""

from __future__ import annotations

from typing import NamedTuple

import torch

# Cores that have just multiplied by a block all hold a copy of it, which writing the next one into the same place
# must first take from them: that made a matrix's noise twice as slow. So places are used in turn.
_CPU_RING_BYTES = 16 * 2**20
_ALIGN = 64

Shapes = tuple[torch.Size, ...]


class Kind(NamedTuple):
    """What tensors must have in common to share a buffer."""

    device: torch.device
    dtype: torch.dtype


def aligned(numel: int) -> int:
    """Round a number of elements up, so that what follows starts on a cache line."""
    return -(-numel // _ALIGN) * _ALIGN


def ring_numel(numel: int, kind: Kind, scratch_bytes: int) -> int:
    """Return how many elements the ring has from which pieces of up to ``numel`` are taken.

    Args:
        numel: The largest piece.
        kind: Of the ring.
        scratch_bytes: What is allowed for scratch; a piece that is larger gets its place all the same.
    """
    least = min(scratch_bytes, _CPU_RING_BYTES) // kind.dtype.itemsize if kind.device.type == "cpu" else 0
    return max(numel, least)


class Ring:
    """A flat buffer that is handed out piece after piece, from the start again when the rest is too short."""

    def __init__(self, buffer: torch.Tensor) -> None:
        self.buffer = buffer
        self._next = 0
        self._views: dict[tuple[int, Shapes], list[torch.Tensor]] = {}

    def take(self, numel: int) -> torch.Tensor:
        """Return the next ``numel`` elements; ``numel`` must not exceed the buffer."""
        start = self._start(numel)
        return self.buffer[start : start + numel]

    def take_shaped(self, shapes: Shapes) -> list[torch.Tensor]:
        """Return the next elements as tensors of these shapes; each begins on a cache line."""
        start = self._start(sum(aligned(shape.numel()) for shape in shapes))
        views = self._views.get((start, shapes))
        if views is None:
            # Remembered: layers are alike, and to make the views takes longer than to find them.
            views = self._views[start, shapes] = []
            for shape in shapes:
                views.append(self.buffer[start : start + shape.numel()].view(shape))
                start += aligned(shape.numel())
        return views

    def _start(self, numel: int) -> int:
        start = self._next if self._next + numel <= self.buffer.numel() else 0
        self._next = start + aligned(numel)
        return start
