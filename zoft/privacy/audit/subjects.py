"""Who is audited: something that runs with a chosen example or without it, and what can be seen of that."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from zoft.privacy import mechanism
from zoft.privacy.plan import PrivacyPlan
from zoft.privacy.sampling import PoissonBatches

Releases = list[list[float]]
"""All that one run publishes: a vector of noised mean slopes for each step, in order."""

Subject = Callable[[bool, int], list[Releases]]
"""``subject(present, count)`` runs ``count`` times, independently, with the canary in the data set or without it."""

CANARIES: dict[str, Callable[[float], float]] = {
    "saturating": lambda clip_threshold: clip_threshold,
    "huge": lambda clip_threshold: 1e30,
    "nan": lambda clip_threshold: math.nan,
}
"""The chosen example's slope along every direction, given the clip threshold."""


def mechanism_subject(plan: PrivacyPlan, *, canary: str, others: int) -> Subject:
    """Return runs of what training runs: the sampler, :class:`~zoft.privacy.mechanism.PrivateSum` and ``release``.

    Only the model is left out: examples are their slopes. The runs that are asked for together go step by step, side by
    side, each with a sampler and sums of its own, and their sums are noised in one call, as the elements of one vector
    are; asked for one by one, every release is a call of its own.

    Args:
        plan: The run's plan.
        canary: Name of the canary, of :data:`CANARIES`.
        others: Number of examples beside it. All saturate the clip, and pull the other way.
    """
    clip, size = plan.first_clip, plan.num_scalars
    slopes = [[-clip] * size] * others + [[CANARIES[canary](clip)] * size]

    def runs(present: bool, count: int) -> list[Releases]:
        everybody = others + present
        samplers = [PoissonBatches(others + 1, plan.sample_rate, plan.steps) for _ in range(count)]
        published: list[Releases] = [[] for _ in range(count)]
        for batches in zip(*samplers, strict=True):
            totals: list[int] = []
            for batch in batches:
                batch_sum = mechanism.PrivateSum(size, clip)
                for index in batch:
                    if index < everybody:  # the canary is the last; without it, its place is empty
                        batch_sum.add(slopes[index])
                totals += batch_sum.total
            noised = mechanism.release(
                totals,
                mechanism=plan.config.dp_mechanism,
                noise_multiplier=plan.noise_multiplier,
                clip_threshold=clip,
                expected_batch_size=plan.expected_batch_size,
            )
            for number, releases in enumerate(published):
                releases.append(noised[number * size : (number + 1) * size])
        return published

    return runs


def with_public_seeds_replayed(subject: Subject) -> Subject:
    """Return what is left of each run for somebody who knows every public seed and takes off what they repeat.

    The global generators of Python, NumPy and torch are seeded, the subject runs, they are seeded alike, it runs again
    without the canary, and the second run is subtracted from the first. Noise that no seed repeats is there twice
    afterwards; noise that one repeats is gone.
    """

    def runs(present: bool, count: int) -> list[Releases]:
        seed = random.SystemRandom().getrandbits(32)
        with _seeded(seed):
            seen = subject(present, count)
        with _seeded(seed):
            repeated = subject(False, count)
        return [
            [[x - y for x, y in zip(a, b, strict=True)] for a, b in zip(run, again, strict=True)]
            for run, again in zip(seen, repeated, strict=True)
        ]

    return runs


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators, and put them back."""
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)
