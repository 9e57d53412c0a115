"""From error rates to lower bounds on epsilon, and the threshold that gives the best one: pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from zoft.privacy.audit.scores import Array

Value = Callable[[Array, Array], Array]
"""What upper bounds on the rates of false positives and of false negatives are worth."""

MOST_THRESHOLDS = 10_000


def upper_rate(count: npt.NDArray[Any], trials: int, alpha: float) -> Array:
    """Return the upper end of a one-sided confidence interval of a probability (Clopper and Pearson 1934).

    Args:
        count: How often it happened.
        trials: How often it could have.
        alpha: Probability with which the interval misses, in (0, 1).
    """
    bound = special.betaincinv(count + 1.0, np.maximum(trials - count, 1.0), 1.0 - alpha)
    return np.where(count < trials, bound, 1.0)


def epsilon_bound(false_positive: Array, false_negative: Array, delta: float) -> Array:
    """Return the least epsilon that allows error rates this low (Kairouz, Oh, Viswanath 2015, arXiv 1311.0776).

    ``(epsilon, delta)`` asks for ``1 - delta - FNR <= exp(epsilon) FPR`` of every way to guess, and for the same with
    the rates exchanged.
    """
    with np.errstate(divide="ignore"):
        one = np.log(np.maximum(1.0 - delta - false_negative, 0.0)) - np.log(false_positive)
        other = np.log(np.maximum(1.0 - delta - false_positive, 0.0)) - np.log(false_negative)
    bound: Array = np.maximum(np.maximum(one, other), 0.0)
    return bound


def gaussian_bound(false_positive: Array, false_negative: Array) -> Array:
    """Return the least mu for which mu-Gaussian-DP allows error rates this low (Dong et al. 2022, arXiv 1905.02383)."""
    bound: Array = np.maximum(-special.ndtri(false_positive) - special.ndtri(false_negative), 0.0)
    return bound


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the epsilon of mu-Gaussian-DP at a delta in (0, 1) (Dong et al. 2022, arXiv 1905.02383)."""
    if mu == 0.0:
        return 0.0
    below = NormalDist().cdf

    def fits(epsilon: float) -> bool:
        other = math.exp(epsilon + float(special.log_ndtr(-epsilon / mu - mu / 2.0)))
        return below(mu / 2.0 - epsilon / mu) - other <= delta

    low, high = 0.0, 1.0
    while not fits(high):
        low, high = high, 2.0 * high
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def error_bounds(absent: Array, present: Array, thresholds: Array, alpha: float) -> tuple[Array, Array]:
    """Return upper bounds on how often guessing by a threshold is wrong; above it, the canary is guessed to be there.

    Args:
        absent: Scores of runs without the canary.
        present: Scores of runs with it.
        thresholds: The thresholds.
        alpha: Probability with which each bound misses.

    Returns:
        The rates of false positives and of false negatives, for each threshold.
    """
    false_positives = len(absent) - np.searchsorted(np.sort(absent), thresholds, side="right")
    false_negatives = np.searchsorted(np.sort(present), thresholds, side="right")
    return upper_rate(false_positives, len(absent), alpha), upper_rate(false_negatives, len(present), alpha)


def best_threshold(absent: Array, present: Array, alpha: float, value: Value) -> tuple[float, float]:
    """Return the threshold whose error rates are worth most, and what they are worth."""
    candidates = np.unique(np.concatenate([absent, present]))
    if len(candidates) > MOST_THRESHOLDS:
        candidates = candidates[np.linspace(0, len(candidates) - 1, MOST_THRESHOLDS).astype(int)]
    worth = value(*error_bounds(absent, present, candidates, alpha))
    best = int(np.argmax(worth))
    return float(candidates[best]), float(worth[best])
