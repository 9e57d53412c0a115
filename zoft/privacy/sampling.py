"""Batches in which every example is with the same probability, independently: what the accountants take for granted."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator

import numpy as np

from zoft.errors import ConfigError

_KEY_BITS = 128
_RESOLUTION = 2.0**-53  # numpy's uniform random numbers are multiples of this


class PoissonBatches:
    """A batch sampler: each batch is the indices of a Poisson sample, in order, possibly none.

    Several processes that have the same key see the same batches, of which each reads its own part. A batch is read
    whole; its micro-batches follow each other.

    Batches are those of Opacus's ``UniformWithReplacementSampler``, from another source: it draws from a torch
    generator, which on CPUs takes 32 bits of its seed, few enough to try them all against what a run publishes.

    Args:
        num_examples: Number of examples.
        sample_rate: Probability of each to be in a batch, in (0, 1].
        steps: Batches before the iterator ends; the next one goes on with others.
        key: 128 random bits that nobody else knows; by default the operating system's. A key must not be used again in
            another run: see :func:`secret_key`.
        micro_batches: Into how many parts one after the other this process's part of a batch is cut.
        rank: Number of this process.
        world_size: Number of processes.

    Raises:
        ConfigError: If a sampling rate is not in (0, 1], or too small to be drawn.
    """

    def __init__(
        self,
        num_examples: int,
        sample_rate: float,
        steps: int,
        *,
        key: int | None = None,
        micro_batches: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not _RESOLUTION <= sample_rate <= 1.0:
            raise ConfigError(
                f"sample_rate must be in [2^-53, 1], got {sample_rate}: the expected batch size over the number of "
                f"examples, {num_examples}. Change the batch size."
            )
        self._random = np.random.Generator(np.random.Philox(key=secret_key() if key is None else key))
        # Rounded down, so that no example comes more often than is accounted for.
        self._drawn_rate = math.floor(sample_rate / _RESOLUTION) * _RESOLUTION
        self._num_examples, self._steps = num_examples, steps
        self._micro_batches, self._rank, self._world_size = micro_batches, rank, world_size

    def __len__(self) -> int:
        return self._steps * self._micro_batches

    def __iter__(self) -> Iterator[list[int]]:
        parts = self._world_size * self._micro_batches
        for _ in range(self._steps):
            batch = np.flatnonzero(self._random.random(self._num_examples) < self._drawn_rate).tolist()
            for number in range(self._micro_batches):
                yield batch[self._rank + number * self._world_size :: parts]


def secret_key() -> int:
    """Return 128 bits of the operating system's entropy."""
    return secrets.randbits(_KEY_BITS)
