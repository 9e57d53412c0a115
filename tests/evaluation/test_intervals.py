"""Intervals hold what they promise, and pairs tell more than two scores do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from zoft.evaluation.intervals import Difference, difference, interval, share_interval, with_intervals
from zoft.evaluation.metrics import metric
from zoft.evaluation.predictions import Evaluation, Prediction


def chose(right: int, chosen: int) -> Prediction:
    return Prediction(expected=(str(right),), predicted=str(chosen), right=(right,), chosen=chosen)


def said(expected: str, predicted: str) -> Prediction:
    return Prediction(expected=(expected,), predicted=predicted)


def test_the_interval_of_a_share_is_wilson_s() -> None:
    z, hits, count = 1.959963984540054, 37, 50
    share = hits / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    assert share_interval(hits, count) == pytest.approx((middle - half, middle + half), abs=1e-12)
    predictions = [chose(1, int(place < hits)) for place in range(count)]
    assert interval(predictions, "accuracy") == share_interval(hits, count)


@pytest.mark.parametrize("count", [60, 200])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.85])
def test_the_interval_of_a_share_covers_it_95_times_of_100(count: int, share: float) -> None:
    """Exactly, over all numbers of hits: nothing is drawn."""
    covered = sum(
        binom.pmf(hits, count, share)
        for hits in range(count + 1)
        if share_interval(hits, count)[0] <= share <= share_interval(hits, count)[1]
    )
    assert 0.925 < covered < 0.975


def test_the_bootstrap_interval_covers_the_mean_score_95_times_of_100() -> None:
    """Of 120 data sets about 113; that it is less than 98, or all of 120 twice over, has a chance below 1e-6."""
    rng, texts, expected = np.random.default_rng(0), ["a b c d", "a b c", "a b", "x"], "a b c d"
    scores = [metric("f1").of([said(expected, text)]) for text in texts]
    weights = [0.3, 0.2, 0.2, 0.3]
    mean = float(np.dot(scores, weights))
    covered, widths = 0, []
    for _ in range(120):
        predictions = [said(expected, texts[place]) for place in rng.choice(4, size=80, p=weights)]
        low, high = interval(predictions, "f1")
        covered += low <= mean <= high
        widths.append(high - low)
    deviation = math.sqrt(np.dot(np.square(scores), weights) - mean**2)
    assert 98 <= covered
    assert np.mean(widths) == pytest.approx(2 * 1.96 * deviation / math.sqrt(80), rel=0.1)


@pytest.mark.parametrize("name", ["macro_f1", "matthews"])
def test_scores_that_are_no_means_have_intervals_too(name: str) -> None:
    predictions = [chose(place % 3, (place % 3 + (place % 5 == 0)) % 3) for place in range(60)]
    low, high = interval(predictions, name)
    assert 0.5 < low < metric(name).of(predictions) < high < 1


def test_the_seed_decides_what_the_bootstrap_draws() -> None:
    predictions = [said("a b c", "a b" if place % 2 else "x") for place in range(51)]
    assert interval(predictions, "f1") == interval(predictions, "f1") != interval(predictions, "f1", seed=1)


def test_models_are_compared_row_by_row() -> None:
    before = [chose(1, 0)] * 9 + [chose(1, 1)] * 31
    after = [chose(1, 1)] * 9 + [chose(1, 0)] + [chose(1, 1)] * 30
    found = difference(before, after, "accuracy")
    assert found.value == pytest.approx(0.2)
    assert found.p_value == pytest.approx(2 * (1 + 10) / 2**10)  # 9 gained, 1 lost: two tails of ten tosses
    # McNemar's differences have standard deviation sqrt(10 / 40 - 0.2^2) in a row.
    half = 1.96 * math.sqrt((10 / 40 - 0.2**2) / 40)
    assert found.interval == pytest.approx((0.2 - half, 0.2 + half), abs=0.04)
    assert difference(after, before, "accuracy").value == pytest.approx(-0.2)
    assert difference(before, before, "accuracy") == Difference("accuracy", 0, (0, 0), 1)


def test_a_difference_of_other_scores_has_no_p_value_and_an_interval_of_pairs() -> None:
    texts = ["a b c d", "a b", "x"]
    before = [said("a b c d", texts[place % 3]) for place in range(60)]
    after = [said("a b c d", texts[place % 3] + (" c" if place % 3 == 1 else "")) for place in range(60)]
    found = difference(before, after, "f1")
    low, high = found.interval
    assert found.p_value is None and 0 < low < found.value < high
    of_before, of_after = interval(before, "f1"), interval(after, "f1")
    assert high - low < (of_before[1] - of_before[0]) / 2, "what both models find hard says nothing of their difference"
    assert of_before[1] > of_after[0], "whose own intervals overlap"


def test_scores_get_the_intervals_of_the_metric_and_of_each_class() -> None:
    predictions = [chose(0, 0)] * 8 + [chose(0, 1)] * 2 + [chose(1, 1)] * 5
    scores = {"accuracy": 13 / 15, "class_accuracy": [0.8, 1.0, None], "n": 15}
    found = with_intervals(Evaluation(scores, predictions), "accuracy").scores
    assert found["accuracy_ci"] == list(share_interval(13, 15))
    assert found["class_accuracy_ci"] == [list(share_interval(8, 10)), list(share_interval(5, 5)), None]
    assert scores == {"accuracy": 13 / 15, "class_accuracy": [0.8, 1.0, None], "n": 15}, "the given ones stay"
    assert "f1_ci" not in with_intervals(Evaluation({"f1": 1.0}, [said("a", "a")]), "f1").scores, "rows of one"
    assert with_intervals(Evaluation({"loss": 1.0}), "accuracy").scores == {"loss": 1.0}
