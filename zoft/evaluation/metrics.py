"""Scores by name, for classes and for text."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from zoft.errors import ConfigError, did_you_mean
from zoft.evaluation.predictions import Prediction

__all__ = ["METRICS", "Metric", "metric"]


@dataclass(frozen=True)
class Metric:
    """A score, the higher the better.

    Attributes:
        of: From predictions to the score.
        of_each: The score of one prediction, where ``of`` is the mean of these.
        of_classes: Whether it counts classes, which answers in words have none of.
    """

    of: Callable[[Sequence[Prediction]], float]
    of_each: Callable[[Prediction], float] | None = None
    of_classes: bool = False


def _mean(of_each: Callable[[Prediction], float]) -> Metric:
    return Metric(lambda predictions: float(np.mean([of_each(one) for one in predictions])), of_each)


def _is_right(one: Prediction) -> float:
    if one.chosen is None:
        return _exact_match(one)
    return float(one.chosen in one.right)


def _exact_match(one: Prediction) -> float:
    return max(float(_normalised(one.predicted) == _normalised(answer)) for answer in one.expected)


def _f1(one: Prediction) -> float:
    return max(_word_f1(_normalised(one.predicted).split(), _normalised(answer).split()) for answer in one.expected)


def _word_f1(predicted: list[str], expected: list[str]) -> float:
    """F1 of two bags of words (Rajpurkar et al. 2016, arXiv 1606.05250); two empty ones agree."""
    if not predicted or not expected:
        return float(predicted == expected)
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected))


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _normalised(text: str) -> str:
    """Take away what the answers to SQuAD may differ in: case, punctuation, articles, spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _macro_f1(predictions: Sequence[Prediction]) -> float:
    from sklearn.metrics import f1_score  # takes seconds, which other tasks need not wait for

    return float(f1_score(*_classes(predictions), average="macro", zero_division=0))


def _matthews(predictions: Sequence[Prediction]) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(*_classes(predictions)))


def _classes(predictions: Sequence[Prediction]) -> tuple[list[int], list[int]]:
    """Return the right and the chosen classes."""
    return [one.right[0] for one in predictions], [one.chosen for one in predictions if one.chosen is not None]


METRICS: dict[str, Metric] = {
    "accuracy": _mean(_is_right),
    "exact_match": _mean(_exact_match),
    "f1": _mean(_f1),
    "macro_f1": Metric(_macro_f1, of_classes=True),
    "matthews": Metric(_matthews, of_classes=True),
}


def metric(name: str, *, in_words: bool = False) -> Metric:
    """Return a metric.

    Args:
        name: Its name.
        in_words: Whether what it is to measure are answers in words.

    Raises:
        ConfigError: There is none of this name, or it is one of classes and there are none.
    """
    if name not in METRICS:
        raise ConfigError(f"there is no metric {name!r}.{did_you_mean(name, METRICS)} Known: {', '.join(METRICS)}.")
    if in_words and METRICS[name].of_classes:
        raise ConfigError(
            f"the metric {name} counts classes, and this task is answered in words; use f1 or exact_match"
        )
    return METRICS[name]
