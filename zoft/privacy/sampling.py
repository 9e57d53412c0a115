"""Batches in which every example is with the same probability, independently: what the accountants take for granted."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator

import torch
from opacus.utils.uniform_sampler import UniformWithReplacementSampler

from zoft.errors import ConfigError

# Opacus's sampler compares with float32 random numbers, which are multiples of this.
_RESOLUTION = 2.0**-24


class PoissonBatches:
    """A batch sampler: each batch is the indices of a Poisson sample, in order, possibly none.

    Several processes that have the same key see the same batches, of which each reads its own part. A batch is read
    whole; its micro-batches follow each other.

    Args:
        num_examples: Number of examples.
        sample_rate: Probability of each to be in a batch, in (0, 1].
        steps: Batches before the iterator ends; the next one goes on with others.
        key: 64 random bits that nobody else knows; by default the operating system's. A key must not be used again in
            another process: see :func:`secret_key`.
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
                f"sample_rate must be in [2^-24, 1], got {sample_rate}: the expected batch size over the number of "
                f"examples, {num_examples}. Change the batch size."
            )
        generator = torch.Generator().manual_seed(secret_key() if key is None else key)
        self._sampler = UniformWithReplacementSampler(
            num_samples=num_examples,
            # Rounded down, so that no example comes more often than is accounted for.
            sample_rate=math.floor(sample_rate / _RESOLUTION) * _RESOLUTION,
            generator=generator,
            steps=steps,
        )
        self._micro_batches, self._rank, self._world_size = micro_batches, rank, world_size

    def __len__(self) -> int:
        return len(self._sampler) * self._micro_batches

    def __iter__(self) -> Iterator[list[int]]:
        parts = self._world_size * self._micro_batches
        for batch in self._sampler:
            for number in range(self._micro_batches):
                yield batch[self._rank + number * self._world_size :: parts]


def secret_key() -> int:
    """Return 64 bits of the operating system's entropy."""
    return secrets.randbits(64)
