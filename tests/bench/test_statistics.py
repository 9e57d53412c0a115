"""Intervals, tests and adjustments against values worked out by hand or found in tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zoft.bench.statistics import caveat, holm, mean_with_interval, paired_p, verdict


def test_the_interval_is_students() -> None:
    """Mean 2, standard deviation 1; the table's t for 2 degrees of freedom at 97.5% is 4.303."""
    mean, half = mean_with_interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert mean_with_interval([5.0]) == (5.0, None)


def test_the_interval_covers_the_truth_95_times_in_100() -> None:
    samples = np.random.default_rng(0).normal(size=(4000, 3))
    covered = np.mean([abs(mean) <= half for mean, half in map(mean_with_interval, samples) if half is not None])
    assert covered == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))


def test_the_paired_test_is_students_on_the_differences() -> None:
    """Differences 1, 2, 3: t = 2 sqrt(3) with 2 degrees of freedom, whose distribution function is elementary."""
    t = 2.0 * math.sqrt(3.0)
    expected = 2.0 * (0.5 - t / (2.0 * math.sqrt(2.0 + t * t)))
    assert paired_p([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == pytest.approx(expected, rel=1e-9)


def test_pairs_without_spread_are_judged_by_their_difference() -> None:
    assert paired_p([1.0, 2.0], [1.0, 2.0]) == 1.0
    assert paired_p([2.0, 3.0], [1.0, 2.0]) == 0.0
    assert paired_p([1.0], [2.0]) is None


def test_holm_multiplies_by_the_number_of_hypotheses_left_and_never_falls() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5})
    assert adjusted == pytest.approx({"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.5})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_verdicts_say_no_more_than_was_shown() -> None:
    assert [verdict(-1.0, 0.01), verdict(1.0, 0.01), verdict(-1.0, 0.05), verdict(-1.0, None)] == [
        "better",
        "worse",
        "no difference shown",
        "one seed shows nothing",
    ]


def test_the_caveat_says_how_large_a_difference_must_be() -> None:
    """4.303 / sqrt(3) = 2.48; among ten, t at 99.75% is 14.089, and 14.089 / sqrt(3) = 8.13."""
    assert "must be 2.5 times" in caveat(3, 10) and "and 8.1 times as the smallest of 10" in caveat(3, 10)
    assert caveat(1, 10).startswith("One seed")
    assert caveat(3, 0).startswith("Nothing is compared")
