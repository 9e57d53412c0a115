"""Poisson batches: every example at the same rate, independently; ranks and micro-batches part what one process draws.

Statistics are held to bounds that a right sampler exceeds less than once in ten million runs.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from zoft.errors import ConfigError
from zoft.privacy import PoissonBatches
from zoft.privacy.sampling import secret_key

N, RATE, STEPS = 60, 0.1, 20_000
RARE = 1e-7


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    """Who was in which batch, bool [STEPS, N]."""
    drawn = np.zeros((STEPS, N), dtype=bool)
    for row, batch in zip(drawn, PoissonBatches(N, RATE, STEPS), strict=True):
        assert batch == sorted(set(batch))
        row[batch] = True
    return drawn


def normal_scores(masks: np.ndarray) -> np.ndarray:
    """Inclusions with mean 0 and variance 1, if the rate is what it should be."""
    return (masks - RATE) / math.sqrt(RATE * (1.0 - RATE))


def is_likely(statistic: float, distribution: Any) -> bool:
    """Whether neither tail has less than RARE."""
    return bool(RARE < distribution.cdf(statistic) < 1.0 - RARE)


def test_every_example_is_included_at_the_rate(masks: np.ndarray) -> None:
    counts = masks.sum(axis=0)
    statistic = ((counts - STEPS * RATE) ** 2).sum() / (STEPS * RATE * (1.0 - RATE))
    assert is_likely(statistic, stats.chi2(N))
    assert is_likely(counts.sum(), stats.binom(STEPS * N, RATE))


def test_examples_are_independent(masks: np.ndarray) -> None:
    """Correlations of all pairs, each and together; a sample of fixed size has -1 / (N - 1) in each."""
    scores = normal_scores(masks)
    correlations = (scores.T @ scores / STEPS)[np.triu_indices(N, 1)]
    assert np.abs(correlations).max() < 7.0 / math.sqrt(STEPS)
    assert abs(correlations.sum()) < 7.0 * math.sqrt(len(correlations) / STEPS)


@pytest.mark.parametrize("lag", [1, 2, 3, 7])
def test_batches_are_independent(lag: int, masks: np.ndarray) -> None:
    """An example's inclusion says nothing of its own, or of all others, some batches later."""
    scores = normal_scores(masks)
    later, earlier = scores[lag:], scores[:-lag]
    assert np.abs((later * earlier).mean(axis=0)).max() < 7.0 / math.sqrt(STEPS - lag)
    sizes = scores.sum(axis=1) / math.sqrt(N)
    assert abs((sizes[lag:] * sizes[:-lag]).mean()) < 7.0 / math.sqrt(STEPS - lag)


def test_sizes_are_binomial(masks: np.ndarray) -> None:
    sizes = np.bincount(masks.sum(axis=1), minlength=N + 1)
    expected = stats.binom(N, RATE).pmf(np.arange(N + 1)) * STEPS
    common = expected >= 20.0
    observed = np.append(sizes[common], sizes[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    assert is_likely(((observed - expected) ** 2 / expected).sum(), stats.chi2(len(observed) - 1))


def test_empty_batches_are_batches() -> None:
    batches = list(PoissonBatches(8, 0.05, 4000))
    assert len(batches) == 4000
    assert is_likely(sum(not batch for batch in batches), stats.binom(4000, 0.95**8))


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_and_micro_batches_part_the_batch_of_one_process(world_size: int, micro_batches: int) -> None:
    key = secret_key()
    whole = list(PoissonBatches(50, 0.2, 40, key=key))
    shares: list[list[list[int]]] = [[] for _ in whole]
    for rank in range(world_size):
        mine = PoissonBatches(50, 0.2, 40, key=key, micro_batches=micro_batches, rank=rank, world_size=world_size)
        parts = list(mine)
        assert len(parts) == len(mine) == 40 * micro_batches
        for number, part in enumerate(parts):
            shares[number // micro_batches].append(part)
    for batch, parts in zip(whole, shares, strict=True):
        assert sorted(itertools.chain(*parts)) == batch, "disjoint, and together the batch"
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_an_epoch_goes_on_where_the_last_one_ended() -> None:
    key = secret_key()
    batches = PoissonBatches(50, 0.2, 5, key=key)
    assert [*batches, *batches] == list(PoissonBatches(50, 0.2, 10, key=key))


# --- who can know the batches -----------------------------------------------------------------------------


def test_samplers_differ_unless_they_are_given_a_key_in_common() -> None:
    assert list(PoissonBatches(50, 0.5, 4)) != list(PoissonBatches(50, 0.5, 4))


def test_every_bit_of_a_key_counts() -> None:
    """Of torch's generators only the lowest 32 would: few enough to try them all."""
    keys = [1, *(1 + 2**bit for bit in range(1, 128))]
    drawn = {str(list(PoissonBatches(50, 0.5, 4, key=key))) for key in keys}
    assert len(drawn) == len(keys)
    assert max(secret_key() for _ in range(64)) >= 2**120


def seeded(seed: int) -> list[list[int]]:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    return list(PoissonBatches(50, 0.5, 4))


def test_no_seed_of_a_library_fixes_the_batches() -> None:
    assert seeded(0) != seeded(0)


# --- the rate ---------------------------------------------------------------------------------------------


class Given:
    """In place of random numbers: these."""

    def __init__(self, numbers: Sequence[float]) -> None:
        self._numbers = np.array(numbers)

    def random(self, count: int) -> np.ndarray:
        assert count == len(self._numbers)
        return self._numbers


@given(st.floats(2.0**-53, 1.0, exclude_max=True) | st.integers(1, 5000).map(lambda n: 1 / n))
def test_the_drawn_rate_is_the_accounted_one_rounded_down(rate: float) -> None:
    """Numbers are multiples of 2^-53: those included, over all of them, are at most the rate, and one less is not."""
    last = math.ceil(Fraction(rate) * 2**53) - 1  # the last number that may be included
    batches = PoissonBatches(2, rate, 1)
    batches._random = Given([last * 2.0**-53, (last + 1) * 2.0**-53])  # type: ignore[assignment]
    (batch,) = batches
    included = last + len(batch)  # the numbers 0, 1, ..., included - 1
    assert included in (last, last + 1)
    assert rate - 2.0**-53 < Fraction(included, 2**53) <= Fraction(rate)


def test_all_examples_come_at_rate_one() -> None:
    assert list(PoissonBatches(9, 1.0, 2)) == [list(range(9))] * 2


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.01, math.nan, 2.0**-54])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="sample_rate must be in"):
        PoissonBatches(10, rate, 1)
