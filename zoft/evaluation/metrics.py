"""Scores by name, for classes and for text.

A name is one of `METRICS`, ``package.module:function`` for a function of scikit-learn or of one's own, called with what
is right and with what was said, or ``evaluate:NAME`` for one of the library evaluate.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from zoft.dotted import load_function
from zoft.errors import ConfigError, did_you_mean
from zoft.evaluation.predictions import Prediction

__all__ = ["METRICS", "Metric", "metric", "value_of"]


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


def metric(name: str, *, has_classes: bool = True) -> Metric:
    """Return a metric.

    Args:
        name: Its name.
        has_classes: Whether what it is to measure are choices among the same classes in all rows.

    Raises:
        ConfigError: There is none of this name, or it is one of classes and there are none.
    """
    if name.startswith(_EVALUATE):
        return Metric(_of_evaluate(name))
    if ":" in name:
        return Metric(_of_function(name, load_function(name, "metric")))
    if name not in METRICS:
        raise ConfigError(
            f"there is no metric {name!r}.{did_you_mean(name, METRICS)} Known: {', '.join(METRICS)}, and "
            "package.module:function, such as sklearn.metrics:balanced_accuracy_score."
        )
    if not has_classes and METRICS[name].of_classes:
        raise ConfigError(
            f"the metric {name} counts classes, and this task has none: use f1 or exact_match for answers in words, "
            "accuracy for options of each row's own"
        )
    return METRICS[name]


def value_of(one: Prediction, name: str) -> float | None:
    """Return one prediction's value of a score, None where it has none of its own."""
    if one.score is not None or name not in METRICS:
        return one.score
    of_each = METRICS[name].of_each
    return None if of_each is None else of_each(one)


_EVALUATE = "evaluate:"


def _said(predictions: Sequence[Prediction]) -> tuple[list[Any], list[Any]]:
    """Return what is right and what was said: classes, or the first accepted answers and the texts."""
    if all(one.chosen is not None for one in predictions):
        return _classes(predictions)
    return [one.expected[0] for one in predictions], [one.predicted for one in predictions]


def _of_function(name: str, function: Callable[..., Any]) -> Callable[[Sequence[Prediction]], float]:
    def of(predictions: Sequence[Prediction]) -> float:
        try:
            score = function(*_said(predictions))
        except Exception as error:  # whatever somebody else's function does
            raise ConfigError(f"metric {name} failed on {len(predictions)} predictions: {error!r}") from error
        return _number(name, score)

    return of


def _of_evaluate(name: str) -> Callable[[Sequence[Prediction]], float]:
    """Return ``evaluate:NAME``, or one of its figures where it has several: ``evaluate:NAME:FIGURE``."""
    source, _, figure = name.removeprefix(_EVALUATE).partition(":")
    try:
        import evaluate  # takes seconds
    except ImportError:
        raise ConfigError(f"metric {name} needs the library evaluate: pip install evaluate") from None
    try:
        module = evaluate.load(source, keep_in_memory=True)
    except Exception as error:  # it is a script that may lack anything, and comes from the Hub
        raise ConfigError(f"metric {name} cannot be loaded: {error}") from error

    def of(predictions: Sequence[Prediction]) -> float:
        right, said = _said(predictions)
        try:
            figures = module.compute(predictions=said, references=right)
        except Exception as error:
            raise ConfigError(f"metric {name} failed on {len(predictions)} predictions: {error!r}") from error
        wanted = figure or (source if source in figures else next(iter(figures)))
        if wanted not in figures or (not figure and wanted != source and len(figures) > 1):
            raise ConfigError(f"metric {name}: write {_EVALUATE}{source}:FIGURE, one of {', '.join(figures)}")
        return _number(name, figures[wanted])

    return of


def _number(name: str, score: Any) -> float:
    if not isinstance(score, Real) or not math.isfinite(score):
        raise ConfigError(f"metric {name} must return one finite number, got {score!r:.80}")
    return float(score)
