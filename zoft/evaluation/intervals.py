"""How sure a score is, and whether two models differ: 95% confidence intervals and paired tests.

A share has Wilson's interval (Wilson 1927; Brown, Cai and DasGupta 2001), any other score that of a seeded percentile
bootstrap over examples. Two models on the same rows are compared row by row: shares by McNemar's exact test (1947), and
the difference of any score by a bootstrap that draws rows, each with what both models made of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap

from zoft.evaluation.metrics import METRICS, metric
from zoft.evaluation.predictions import Evaluation, Prediction

__all__ = [
    "CONFIDENCE",
    "Difference",
    "Interval",
    "difference",
    "has_interval",
    "interval",
    "share_interval",
    "with_intervals",
]

CONFIDENCE = 0.95
RESAMPLES = 2000
RESAMPLES_OF_OTHERS = 400  # of scores that are no mean over rows: scikit-learn's take milliseconds

Interval = tuple[float, float]

_SHARES = ("accuracy", "exact_match")  # metrics that are a mean of zeros and ones


@dataclass(frozen=True)
class _Score:
    """The score of some of the predictions, given by their places [n]; of a mean also of many such draws [m, n]."""

    of: Callable[[NDArray[np.int64]], Any]
    is_mean: bool


@dataclass(frozen=True)
class Difference:
    """A score after minus the score before, on the same rows.

    Attributes:
        metric: The score.
        value: The difference.
        interval: Its confidence interval.
        p_value: Probability of such a difference or a larger one between equally good models; None but for shares.
    """

    metric: str
    value: float
    interval: Interval
    p_value: float | None = None


def share_interval(hits: int, count: int) -> Interval:
    """Return Wilson's interval of ``hits`` out of ``count`` > 0."""
    found = binomtest(hits, count).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def interval(predictions: Sequence[Prediction], name: str, *, seed: int = 0) -> Interval:
    """Return the confidence interval of a metric.

    Args:
        predictions: At least one; of other scores than shares, at least two.
        name: The metric's name.
        seed: Decides what the bootstrap draws.
    """
    if name in _SHARES:
        return share_interval(round(sum(_each(predictions, name))), len(predictions))
    return _bootstrap(len(predictions), _score_of(predictions, name), seed)


def difference(before: Sequence[Prediction], after: Sequence[Prediction], name: str, *, seed: int = 0) -> Difference:
    """Compare two models on the same rows.

    Args:
        before: What the first made of each row, of at least two.
        after: What the second made of each, in the same order.
        name: The metric's name.
        seed: Decides what the bootstrap draws.
    """
    of_before, of_after = _score_of(before, name), _score_of(after, name)
    gain = _Score(lambda places: of_after.of(places) - of_before.of(places), of_before.is_mean)
    p_value = None
    if name in _SHARES:
        won = sum(b < a for b, a in zip(_each(before, name), _each(after, name), strict=True))
        lost = sum(b > a for b, a in zip(_each(before, name), _each(after, name), strict=True))
        p_value = float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
    count = len(before)
    return Difference(name, float(gain.of(np.arange(count))), _bootstrap(count, gain, seed), p_value)


def with_intervals(evaluation: Evaluation, name: str) -> Evaluation:
    """Return an evaluation whose scores have the interval of a metric, ``accuracy_ci``, and those of the classes.

    Without predictions there are none, nor can rows be drawn of a single one, nor of what predictions do not say.
    """
    predictions, scores = evaluation.predictions, dict(evaluation.scores)
    if len(predictions) > (name not in _SHARES) and has_interval(predictions, name):
        scores[f"{name}_ci"] = list(interval(predictions, name))
    if "class_accuracy" in scores:
        scores["class_accuracy_ci"] = [
            _class_interval(evaluation.predictions, label) for label in range(len(scores["class_accuracy"]))
        ]
    return Evaluation(scores, evaluation.predictions)


def _class_interval(predictions: Sequence[Prediction], label: int) -> list[float] | None:
    of_class = [one.chosen == label for one in predictions if one.right[0] == label]
    return list(share_interval(sum(of_class), len(of_class))) if of_class else None


def _each(predictions: Sequence[Prediction], name: str) -> list[float]:
    of_each = metric(name).of_each
    assert of_each is not None  # the score is a share
    return [of_each(one) for one in predictions]


def has_interval(predictions: Sequence[Prediction], name: str) -> bool:
    """Whether a score is made of what predictions say: a metric, or a score that each brings with it."""
    return name in METRICS or ":" in name or all(one.score is not None for one in predictions)


def _score_of(predictions: Sequence[Prediction], name: str) -> _Score:
    brought = [one.score for one in predictions if one.score is not None]
    if len(brought) < len(predictions):
        wanted = metric(name)
        if wanted.of_each is None:
            return _Score(lambda places: wanted.of([predictions[place] for place in places]), is_mean=False)
        brought = [wanted.of_each(one) for one in predictions]
    each = np.array(brought)
    return _Score(lambda places: each[places].mean(-1), is_mean=True)


def _bootstrap(count: int, score: _Score, seed: int) -> Interval:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a metric says of rows that happen to lack a class
        found = bootstrap(
            (np.arange(count),),
            lambda places, axis=-1: score.of(places),
            n_resamples=RESAMPLES if score.is_mean else RESAMPLES_OF_OTHERS,
            batch=100,
            vectorized=score.is_mean,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return float(found.low), float(found.high)
