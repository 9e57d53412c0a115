"""The values are distributed as they claim, and nothing that should be independent is not.

Seeds are fixed, so nothing here is flaky; bounds are five standard errors.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from zoft import noise
from zoft.noise import Span, Term, cpu, reference, spec

COUNT = 2**20
HOME = {"parameter": 3, "step": 100, "query": 1}
every_distribution = pytest.mark.parametrize("distribution", spec.DISTRIBUTIONS)


def sample(distribution: noise.Distribution, seed: int = 0, count: int = COUNT, **address: int) -> torch.Tensor:
    where = {**HOME, **address}
    return noise.sample(count, key=noise.run_key(seed), distribution=distribution, **where).double()  # type: ignore[arg-type]


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def test_gaussian_moments_are_those_of_a_standard_normal() -> None:
    z = sample("gaussian")
    # Variances of z^k under N(0, 1): E z^2k - (E z^k)^2.
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert float((z**power).mean()) == pytest.approx(expected, abs=5 * (variance / COUNT) ** 0.5)


def test_gaussian_passes_kolmogorov_smirnov() -> None:
    assert stats.kstest(sample("gaussian").numpy(), "norm").pvalue > 1e-3


def test_gaussian_tails_have_the_right_weight_and_the_stated_bound() -> None:
    z = torch.cat([sample("gaussian", step=step) for step in range(8)]).abs()
    for bound in (2.0, 3.0, 4.0, 4.5):
        expected = len(z) * 2 * stats.norm.sf(bound)
        assert int((z > bound).sum()) == pytest.approx(expected, abs=5 * expected**0.5)
    assert float(z.max()) <= spec.MAX_ABS_GAUSSIAN


def test_no_word_gives_a_gaussian_beyond_the_stated_bound() -> None:
    # The radius is largest at k = 0, so those words, signs aside, are all that can reach the bound.
    words = torch.arange(2**12) << 20
    for high in (False, True):
        z = reference.gaussian_from_word(words, torch.full(words.shape, high))
        assert spec.MAX_ABS_GAUSSIAN - 0.01 < float(z.abs().max()) <= spec.MAX_ABS_GAUSSIAN


def test_no_word_gives_a_zero_or_a_nan() -> None:
    every_radius = torch.arange(2**18) << 2
    for angle, high in ((0x7FF, False), (0x800, True)):  # where cos - sin and cos + sin are smallest
        words = every_radius | angle << 20
        z = reference.gaussian_from_word(words, torch.full(words.shape, high))
        assert z.isfinite().all() and (z.abs() > 3e-7).all()


def test_rademacher_is_plus_or_minus_one_equally_often() -> None:
    z = sample("rademacher")
    assert set(z.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(z.mean())) < 5 / COUNT**0.5


@every_distribution
def test_every_lane_word_and_half_has_mean_zero_and_variance_one(distribution: noise.Distribution) -> None:
    places = 4_096
    z = torch.cat([sample(distribution, step=step) for step in range(4)]).view(-1, places)
    per_place = z.shape[0]
    # Six standard errors, because 4,096 places are looked at.
    assert float(z.mean(0).abs().max()) < 6 / per_place**0.5
    if distribution == "gaussian":
        assert float((z.square().mean(0) - 1).abs().max()) < 6 * (2 / per_place) ** 0.5


@every_distribution
@pytest.mark.parametrize("other", [{"parameter": 4}, {"step": 101}, {"query": 0}, {"query": 2}, {"seed": 1}], ids=str)
def test_directions_of_other_addresses_are_independent(distribution: noise.Distribution, other: dict[str, int]) -> None:
    a, b = sample(distribution), sample(distribution, **other)
    assert abs(correlation(a, b)) < 5 / COUNT**0.5
    for lag in (1, 32, 4_096):
        assert abs(correlation(a[lag:], b[:-lag])) < 5 / COUNT**0.5


@every_distribution
@pytest.mark.parametrize("lag", [1, 2, 31, 32, 33, 64, 128, 256, 1_024, 4_096])
def test_neighbouring_elements_are_independent(distribution: noise.Distribution, lag: int) -> None:
    z = sample(distribution)
    assert abs(correlation(z[lag:], z[:-lag])) < 5 / COUNT**0.5


@pytest.mark.parametrize("lag", [1, 32, 64, 256])
def test_the_two_values_of_a_word_do_not_share_a_magnitude(lag: int) -> None:
    # At lag 32 half of the pairs come from one radius; their squares are independent all the same.
    square = sample("gaussian").square()
    assert abs(correlation(square[lag:], square[:-lag])) < 5 / COUNT**0.5
    assert abs(correlation(square[lag:].log(), square[:-lag].log())) < 5 / COUNT**0.5


def test_rounding_draws_are_uniform_and_independent_of_the_direction_of_the_same_step() -> None:
    count, step = 2**18, HOME["step"]
    elements = torch.arange(count)
    draws = reference.rounding_bits(elements, HOME["parameter"], step, noise.run_key(0)).double()
    assert stats.kstest(((draws + 0.5) / 2**16).numpy(), "uniform").pvalue > 1e-3
    for query in (0, 1):
        for distribution in spec.DISTRIBUTIONS:
            z = sample(distribution, count=count, query=query)
            assert abs(correlation(draws, z)) < 5 / count**0.5
            assert abs(correlation(draws, z.abs() + z)) < 5 / count**0.5


@every_distribution
def test_seed_zero_is_a_seed_like_any_other(distribution: noise.Distribution) -> None:
    zero, again, one = (sample(distribution, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(zero, again)
    assert abs(correlation(zero, one)) < 5 / COUNT**0.5
    assert float(zero.var()) == pytest.approx(1, abs=0.01)


@every_distribution
def test_no_global_random_state_is_read_or_moved(distribution: noise.Distribution) -> None:
    outs = []
    for backend in (reference, cpu):
        for seed in (1, 2):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
            out = torch.zeros(5_000, dtype=torch.bfloat16)
            backend.combine(
                [Span(out, out, 0)], [Term(0, 0, 1.0)], key=noise.run_key(3), distribution=distribution,
                rounding="stochastic",
            )  # fmt: skip
            after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
            assert before[:2] == after[:2] and torch.equal(before[2], after[2])
            outs.append(out)
    assert all(torch.equal(out, outs[0]) for out in outs)


@pytest.mark.slow
def test_gaussian_moments_over_many_steps(set_threads: Callable[[int], None]) -> None:
    set_threads(2)
    total = torch.zeros(3, dtype=torch.float64)
    steps = 64
    for step in range(steps):
        z = sample("gaussian", count=2**22, step=step)
        total += torch.stack([z.mean(), z.square().mean(), z.pow(4).mean()])
    count = steps * 2**22
    for got, expected, variance in zip(total / steps, (0, 1, 2.999946), (1, 2, 96), strict=True):
        assert float(got) == pytest.approx(expected, abs=5 * (variance / count) ** 0.5)
