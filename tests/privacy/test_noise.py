"""Noise that nobody can repeat, of the promised distribution, once: on whole runs whose batches are empty.

What such a run logs is noise and nothing else. Statistics are held to bounds that right noise exceeds less than once in
ten million runs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from tests.privacy.linear import BATCH, start
from zoft.distributed import Replicas
from zoft.noise import run_key, sample
from zoft.privacy.clipping import CLIPPED
from zoft.privacy.mechanism import release
from zoft.privacy.noise import noised

SEED, QUERIES, STEPS = 5, 16, 150
SIGMA, CLIP = 0.7, 3.0
UNIT = SIGMA * CLIP / BATCH  # standard deviation of what a step publishes
RARE = 1e-7


def seed_everything() -> None:
    torch.manual_seed(SEED)
    np.random.seed(SEED)
    random.seed(SEED)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    """What two runs with the same seeds publish, in standard deviations, [STEPS, QUERIES]."""
    published = []
    for name in ("one", "two"):
        seed_everything()
        log = tmp_path_factory.mktemp(name) / "zo_log"
        opt = start(
            log, num_queries=QUERIES, seed=SEED, noise_multiplier=SIGMA, clip_threshold=CLIP, steps=STEPS, lr=1e-6
        )
        for _ in range(STEPS):
            opt.step([])
        assert opt.log is not None
        published.append(np.array([record.scalars for record in opt.log.records]) / UNIT)
    return published


def test_two_runs_with_the_same_seeds_have_independent_noise(runs: list[np.ndarray]) -> None:
    one, two = (run.ravel() for run in runs)
    assert np.mean(one == two) < 0.01  # on a grid of 2**-20 or so, a few may meet by chance
    assert abs(np.mean(one * two)) < 7.0 / math.sqrt(one.size)
    assert stats.kstest((one - two) / math.sqrt(2.0), "norm").pvalue > RARE


def test_noise_is_normal_with_the_scale_of_the_plan(runs: list[np.ndarray]) -> None:
    """Noise added twice, or not at all, is not."""
    for run in runs:
        assert stats.kstest(run.ravel(), "norm").pvalue > RARE
        for query in range(QUERIES):
            assert stats.kstest(run[:, query], "norm").pvalue > RARE / QUERIES


def test_noise_is_independent_over_queries_and_steps(runs: list[np.ndarray]) -> None:
    for run in runs:
        over_queries = (run.T @ run / STEPS)[np.triu_indices(QUERIES, 1)]
        assert np.abs(over_queries).max() < 8.0 / math.sqrt(STEPS)
        for lag in (1, 2, 10):
            assert abs(np.mean(run[lag:] * run[:-lag])) < 7.0 / math.sqrt(run[lag:].size)


def public_numbers() -> dict[str, np.ndarray]:
    """Normal numbers that whoever has a run's seed can make, [STEPS, QUERIES] each."""
    shape = (STEPS, QUERIES)
    key, steps = run_key(SEED), range(STEPS)
    numbers: dict[str, np.ndarray] = {}
    z = np.array([[sampled(key, step, query) for query in range(QUERIES)] for step in steps])
    for element in range(z.shape[-1]):
        numbers[f"element {element} of the directions"] = z[..., element]
    numbers["numpy"] = np.random.default_rng(SEED).standard_normal(shape)
    numbers["numpy's legacy"] = np.random.RandomState(SEED).standard_normal(shape)
    numbers["torch"] = torch.randn(shape, generator=torch.Generator().manual_seed(SEED)).numpy()
    numbers["Python"] = np.reshape([random.Random(SEED).gauss(0.0, 1.0) for _ in range(STEPS * QUERIES)], shape)
    for name, by_step in BY_STEP.items():
        numbers[name] = np.array([by_step(step) for step in steps])
    return numbers


def sampled(key: int, step: int, query: int) -> np.ndarray:
    z = sample(12, parameter=0, step=step, query=query, key=key, distribution="gaussian")
    return z.numpy()


BY_STEP: dict[str, Callable[[int], Any]] = {
    "numpy, seeded at each step": lambda step: np.random.default_rng(SEED + step).standard_normal(QUERIES),
    "numpy, seeded by seed and step": lambda step: np.random.default_rng([SEED, step]).standard_normal(QUERIES),
    "torch, seeded at each step": lambda step: torch.randn(
        QUERIES, generator=torch.Generator().manual_seed(SEED + step)
    ).numpy(),
}


def test_nothing_that_the_public_seed_makes_explains_the_noise(runs: list[np.ndarray]) -> None:
    """Neither the directions nor a library's numbers, with the sequence begun at any of the first places."""
    for name, numbers in public_numbers().items():
        for run in runs:
            noise, known = run.ravel(), numbers.ravel()
            for lag in range(3):
                correlation = np.mean(noise[: noise.size - lag] * known[lag:])
                assert abs(correlation) < 7.0 / math.sqrt(noise.size - lag), name


def test_seeds_of_libraries_have_no_influence_on_the_noise() -> None:
    def drawn(mechanism: str) -> list[int]:
        seed_everything()
        return noised([0] * 20, mechanism, 1.0)

    for mechanism in ("gaussian", "laplace"):
        assert not set(drawn(mechanism)) & set(drawn(mechanism)), "40 numbers of about 2^20"


@pytest.mark.parametrize("scale", [0.3, 2.0])
@pytest.mark.parametrize(("mechanism", "distribution"), [("gaussian", stats.norm), ("laplace", stats.laplace)])
def test_noise_has_the_distribution_of_its_mechanism(mechanism: str, distribution: Any, scale: float) -> None:
    """Around the sum, with the noise multiplier as its scale."""
    total = [5 * CLIPPED] * 10_000
    noise = (np.array(noised(total, mechanism, scale)) - 5 * CLIPPED) / (scale * CLIPPED)
    assert stats.kstest(noise, distribution.cdf).pvalue > RARE
    other = stats.laplace if mechanism == "gaussian" else stats.norm
    assert stats.kstest(noise, other.cdf).pvalue < RARE, "the other one is told apart"


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
def test_what_is_published_lies_on_the_grid(mechanism: str) -> None:
    """Integers in, integers out; so no low bit of a float tells anything. Exact: these units are powers of two."""
    assert all(type(step) is int for step in noised([0, 1, -1], mechanism, 1.3))
    published = release(
        [7, -7] * 50, mechanism=mechanism, noise_multiplier=1.3, clip_threshold=0.5, expected_batch_size=16
    )
    assert all((x * 16 / 0.5 * CLIPPED).is_integer() for x in published)


def test_an_unnoised_sum_shows_when_there_is_next_to_no_noise() -> None:
    """Which is how tests tell that the sum itself is what they think it is."""
    published = release(
        [CLIPPED, -3 * CLIPPED], mechanism="gaussian", noise_multiplier=1e-9, clip_threshold=0.5, expected_batch_size=4
    )
    assert published == [0.125, -0.375]


class SecondOfTwo(Replicas):
    """The second of two ranks: the first has the numbers, and this one is told them."""

    def total(self, values: Any, same: Any = None) -> list[int]:
        return [2 * value for value in values]

    def from_first(self, make: Callable[[], Any]) -> Any:
        return 1 if "intend" in make.__qualname__ else [0.25] * QUERIES

    def check_same(self, *_: Any) -> None:
        return None


def test_only_the_first_rank_draws_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others publish its numbers, bit for bit; each adding some of its own would part their weights."""
    opt = start(tmp_path / "log", num_queries=QUERIES)
    assert opt.privacy is not None
    monkeypatch.setattr(opt.privacy, "_replicas", SecondOfTwo(1, 2, 1))
    opt.step([])
    assert opt.last_record is not None
    assert opt.last_record.scalars == (0.25,) * QUERIES
