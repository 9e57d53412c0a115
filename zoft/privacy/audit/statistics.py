"""From what was seen to a lower bound on epsilon: pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy import special

from zoft.privacy.audit.setting import AuditSetting
from zoft.privacy.audit.subjects import Releases

Array = npt.NDArray[np.float64]

STATISTICS = ("log-likelihood ratio", "sum of the releases", "number of releases")
MOST_THRESHOLDS = 10_000


def scores(runs: list[Releases], setting: AuditSetting, others: int) -> Array:
    """Return what speaks for the canary in each run, by each of :data:`STATISTICS`.

    The log-likelihood ratio is that of the promised mechanism with the canary saturating in a run's batches, each of
    which it is in with probability q; by Neyman and Pearson nothing tells more. The others are for mechanisms that are
    not the promised one. What is not a finite number counts as certainty.

    Args:
        runs: What was seen of each run.
        setting: The promise.
        others: Number of examples beside the canary, each of which adds -1 in its direction whenever it takes part.

    Returns:
        One row a run, one column a statistic.
    """
    q, scale = setting.release.sample_rate, setting.release.noise_multiplier
    run_of = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
    released = np.array([vector for run in runs for vector in run], np.float64).reshape(-1, setting.num_scalars)
    # The sum along the canary, in units of the clip threshold.
    unit = setting.clip_threshold * math.sqrt(setting.num_scalars) / setting.expected_batch_size
    x = released.sum(axis=1) / unit + others * q
    x = np.where(np.isfinite(x), x, np.inf)
    if setting.release.mechanism == "laplace":
        shifted = np.clip(2.0 * x - 1.0, -1.0, 1.0) / scale  # |x| - |x - 1|, also at infinity
    else:
        shifted = (x - 0.5) / scale**2
    ratio = shifted if q == 1.0 else np.logaddexp(math.log1p(-q), math.log(q) + shifted)
    columns = [np.bincount(run_of, weights, minlength=len(runs)) for weights in (ratio, x)]
    return np.stack([*columns, np.bincount(run_of, minlength=len(runs))], axis=1)


def errors(absent: Array, present: Array, thresholds: Array) -> tuple[Array, Array]:
    """Return how often a score above a threshold, and one not above it, is wrong about the canary's presence.

    Args:
        absent: Scores of runs without the canary.
        present: Scores of as many runs with it.
        thresholds: The thresholds.

    Returns:
        Counts of false positives and of false negatives at each threshold.
    """
    false_positives = len(absent) - np.searchsorted(np.sort(absent), thresholds, side="right")
    return false_positives.astype(np.float64), np.searchsorted(np.sort(present), thresholds, side="right").astype(
        np.float64
    )


def upper_rate(count: Array, trials: int, alpha: float) -> Array:
    """Return the upper end of a one-sided confidence interval of a probability (Clopper and Pearson 1934).

    Args:
        count: How often it happened.
        trials: How often it could have.
        alpha: Probability with which the interval misses, in (0, 1).
    """
    bound: Array = special.betaincinv(count + 1.0, np.maximum(trials - count, 1e-9), 1.0 - alpha)
    return np.where(count >= trials, 1.0, bound)


def epsilon_bound(false_positive: Array, false_negative: Array, delta: float) -> Array:
    """Return the least epsilon that error rates this low allow (Kairouz, Oh and Viswanath 2015, theorem 2.1).

    ``(epsilon, delta)`` asks for ``1 - delta - FNR <= exp(epsilon) FPR`` of every way to guess, and the same with the
    roles exchanged.

    Args:
        false_positive: Upper bounds on the rates of false positives.
        false_negative: Upper bounds on the rates of false negatives.
        delta: In [0, 1).
    """
    with np.errstate(divide="ignore"):
        one = np.log(np.maximum(1.0 - delta - false_negative, 0.0)) - np.log(false_positive)
        other = np.log(np.maximum(1.0 - delta - false_positive, 0.0)) - np.log(false_negative)
    return np.maximum(np.maximum(one, other), 0.0)


def gaussian_bound(false_positive: Array, false_negative: Array) -> Array:
    """Return the least mu for which the mechanism can be mu-Gaussian-DP (Dong, Roth and Su 2022, equation 6)."""
    return np.maximum(-special.ndtri(false_positive) - special.ndtri(false_negative), 0.0)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the epsilon of a mu-Gaussian-DP mechanism at a delta (Dong, Roth and Su 2022, corollary 1)."""
    if mu == 0.0:
        return 0.0
    normal = NormalDist()

    def fits(epsilon: float) -> bool:
        log_other = epsilon + float(special.log_ndtr(-epsilon / mu - mu / 2.0))
        return normal.cdf(-epsilon / mu + mu / 2.0) - math.exp(log_other) <= delta

    high = 1.0
    while not fits(high):
        high *= 2.0
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


Value = Callable[[Array, Array], Array]
"""What error rates are worth to whoever chooses a threshold."""


def best_threshold(absent: Array, present: Array, value: Value, alpha: float) -> tuple[float, float]:
    """Return what the best threshold is worth, and the threshold.

    Args:
        absent: Scores of runs without the canary.
        present: Scores of as many runs with it.
        value: What error rates are worth.
        alpha: The bounds on the rates miss with this probability, each.
    """
    candidates = np.unique(np.concatenate([absent, present]))
    if len(candidates) > MOST_THRESHOLDS:
        candidates = candidates[np.linspace(0, len(candidates) - 1, MOST_THRESHOLDS).astype(int)]
    worth = value(*(upper_rate(count, len(absent), alpha) for count in errors(absent, present, candidates)))
    best = int(np.argmax(worth))
    return float(worth[best]), float(candidates[best])
