"""What a handful of seeds can say: intervals, paired comparisons, and how much they cannot say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

ALPHA = 0.05


class Mean(NamedTuple):
    """A mean over seeds, and half the width of its 95% confidence interval (None for a single seed)."""

    mean: float
    half_width: float | None


def mean_with_interval(values: Sequence[float]) -> Mean:
    """Return the mean with Student's interval, which takes the seeds' results as normally distributed."""
    count = len(values)
    mean = float(np.mean(values))
    if count < 2:
        return Mean(mean, None)
    error = float(np.std(values, ddof=1)) / math.sqrt(count)
    return Mean(mean, float(stats.t.ppf(1 - ALPHA / 2, count - 1)) * error)


def paired_p(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Return the p-value of a two-sided paired t-test: the same seed has the same start, batches and noise.

    Returns:
        None with fewer than two pairs; 1 where the pairs are equal, and 0 where all differ by the same.
    """
    differences = np.subtract(ours, theirs)
    if len(differences) < 2:
        return None
    if np.ptp(differences) == 0.0:
        return 1.0 if differences[0] == 0.0 else 0.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust p-values for having made several comparisons (Holm 1979, Scand. J. Statist. 6(2))."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: (p_values[name], name))):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = largest
    return adjusted


def verdict(difference: float, adjusted_p: float | None) -> str:
    """Say in words whether a difference of losses (ours minus theirs) is shown."""
    if adjusted_p is None:
        return "one seed shows nothing"
    if adjusted_p >= ALPHA:
        return "no difference shown"
    return "better" if difference < 0 else "worse"


def caveat(seeds: int, comparisons: int) -> str:
    """Say what this many seeds can show at all."""
    if seeds < 2:
        return "One seed: nothing can be said about chance; run at least three."
    if not comparisons:
        return "Nothing is compared: the reference, or all others, have no results here."
    alone, among = (
        float(stats.t.ppf(1 - ALPHA / (2 * number), seeds - 1)) / math.sqrt(seeds) for number in (1, comparisons)
    )
    return (
        f"With {seeds} seeds a mean difference must be {alone:.1f} times the standard deviation of the paired "
        f"differences to show at 5% alone, and {among:.1f} times as the smallest of {comparisons} comparisons (Holm). "
        "Where no difference is shown there may still be one."
    )
