"""Metrics against pairs whose scores are known."""

from __future__ import annotations

import pytest

from zoft.errors import ConfigError
from zoft.evaluation.metrics import METRICS, metric
from zoft.evaluation.predictions import Prediction


def said(predicted: str, *expected: str) -> Prediction:
    return Prediction(expected=expected, predicted=predicted)


def chose(chosen: int, *right: int) -> Prediction:
    return Prediction(expected=tuple(map(str, right)), predicted=str(chosen), right=right, chosen=chosen)


@pytest.mark.parametrize(
    ("prediction", "exact", "f1"),
    [
        (said("Ida Berg", "Ida Berg"), 1, 1),
        (said("the Ida  berg.", "Ida Berg!"), 1, 1),  # case, articles, punctuation and spaces do not count
        (said("Berg", "Ida Berg"), 0, 2 / 3),  # precision 1, recall 1/2
        (said("Ida Berg of Vik", "Ida Berg"), 0, 2 / 3),  # precision 1/2, recall 1
        (said("Berg", "Ida Berg", "Berg"), 1, 1),  # the best of the accepted answers
        (said("rye", "oats"), 0, 0),
        (said("rye rye", "rye"), 0, 2 / 3),  # a word counts as often as it is in both
        (said("", "rye"), 0, 0),
        (said("the", "a"), 1, 1),  # nothing is left of either
        (said("1,804", "1804"), 1, 1),
        (said("well-known", "well known"), 0, 0),  # punctuation goes, and takes the gap with it
    ],
)
def test_f1_and_exact_match_are_squad_s(prediction: Prediction, exact: float, f1: float) -> None:
    assert metric("exact_match").of([prediction]) == exact
    assert metric("f1").of([prediction]) == pytest.approx(f1)
    assert metric("accuracy").of([prediction]) == exact, "of answers in words, accuracy is exact match"


def test_a_mean_metric_is_the_mean_of_each() -> None:
    three = [said("a b", "b"), said("x", "y"), said("b", "b")]
    for name in ("f1", "exact_match", "accuracy"):
        of_each = METRICS[name].of_each
        assert of_each is not None
        assert metric(name).of(three) == pytest.approx(sum(map(of_each, three)) / 3)


def test_any_of_several_right_options_is_right() -> None:
    assert metric("accuracy").of([chose(2, 0, 2), chose(1, 0, 2)]) == 0.5


def test_macro_f1_counts_each_class_alike() -> None:
    """Classes 0, 1, 2 have F1 4/5, 2/3 and 0: the last was never chosen."""
    chosen, right = [0, 0, 1, 1], [0, 0, 1, 2]
    predictions = [chose(c, r) for c, r in zip(chosen, right, strict=True)]
    assert metric("macro_f1").of(predictions) == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert metric("accuracy").of(predictions) == 0.75


def test_matthews_is_a_correlation() -> None:
    """Of tp 2, tn 1, fp 1, fn 0: (2 * 1 - 0) / sqrt(3 * 2 * 2 * 1)."""
    predictions = [chose(1, 1), chose(1, 1), chose(0, 0), chose(1, 0)]
    assert metric("matthews").of(predictions) == pytest.approx(2 / 12**0.5)


def test_unknown_and_unfit_metrics_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no metric 'macro_f2'. Did you mean 'macro_f1'\? Known: accuracy"):
        metric("macro_f2")
    for name in ("macro_f1", "matthews"):
        with pytest.raises(ConfigError, match="counts classes, and this task has none"):
            metric(name, has_classes=False)
