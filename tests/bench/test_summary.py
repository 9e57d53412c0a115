"""The summary says what the results say: means, ranks, comparisons, what is missing; and golden files guard it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from tests.bench.suites import PROBLEM, result, suite
from zoft.bench.golden import differences, golden, golden_runs
from zoft.bench.summary import loss_at, summarise, write_parquet
from zoft.bench.tuning import plan
from zoft.errors import ConfigError
from zoft.reporting.methods import markdown, plot

LOSSES = {"mezo": 0.5, "fo_sgd": 0.3, "so_lbfgs": 0.5}


def finished(made: Any, **changes: Any) -> dict[str, Any]:
    """Results in which a method's loss is its own, a little more at each seed, and more off the best rate."""
    results: dict[str, Any] = {}
    while runs := plan(made, results, made.method_names):
        for run in runs:
            off = 0.0 if run.lr in (1e-2, None) else 0.1
            loss = LOSSES[run.method] + off + 0.001 * (run.seed % 1000)
            results[run.id] = {**result(run, loss), **changes}
    return results


def test_methods_are_ranked_by_mean_test_loss() -> None:
    made = suite()
    summary = summarise(made, finished(made), made.method_names)
    cancer = summary["problems"]["cancer"]
    assert cancer["ranking"] == ["fo_sgd", "mezo", "so_lbfgs"]
    assert summary["ranking"] == [("fo_sgd", 1.0), ("mezo", 2.0), ("so_lbfgs", 3.0)]
    mezo = cancer["methods"]["mezo"]
    assert mezo["lr"] == 1e-2 and not mezo["lr_at_edge"] and mezo["diverged"] == 0
    assert mezo["scores"]["test"]["loss"] == pytest.approx((0.501, 4.302653 * 0.001 / 3**0.5))
    assert [factor for factor, *_ in mezo["sensitivity"]] == [0.5, 1.0, 2.0]
    assert [loss for _, loss, _ in mezo["sensitivity"]] == pytest.approx([0.601, 0.501, 0.601])
    assert cancer["methods"]["so_lbfgs"]["lr"] is None
    assert summary["missing_runs"] == 0 and summary["failures"] == []


def test_comparisons_are_paired_by_seed() -> None:
    """Means that differ by less than seeds do, but at every seed by the same."""
    made = suite()
    methods = summarise(made, finished(made), made.method_names)["problems"]["cancer"]["methods"]
    sgd, lbfgs = methods["fo_sgd"]["against_reference"], methods["so_lbfgs"]["against_reference"]
    assert sgd["difference"] == pytest.approx(-0.2) and sgd["p_holm"] < 1e-6 and sgd["verdict"] == "better"
    assert (lbfgs["difference"], lbfgs["p_holm"], lbfgs["verdict"]) == (0.0, 1.0, "no difference shown")
    assert "against_reference" not in methods["mezo"]


def test_curves_are_read_between_their_points() -> None:
    curve = [[0.0, 0.0, 1.0], [10.0, 2.0, 0.5], [20.0, 4.0, 0.25]]
    assert [loss_at(curve, 0, x) for x in (0.0, 5.0, 20.0, 30.0)] == [1.0, 0.75, 0.25, 0.25]
    assert loss_at(curve, 1, 3.0) == 0.375


def test_an_unfinished_benchmark_says_what_is_missing() -> None:
    made = suite()
    results = finished(made)
    some = dict(list(results.items())[:6])
    summary = summarise(made, some, made.method_names)
    assert summary["missing_runs"] > 0 and "mezo" not in summary["problems"]["cancer"]["methods"]
    assert "**Incomplete:**" in markdown(json.loads(json.dumps(summary)))


def test_methods_that_left_out_a_problem_have_no_mean_rank() -> None:
    made = suite(problems={"a": PROBLEM, "b": PROBLEM}, without={"b": ["fo_sgd"]})
    summary = summarise(made, finished(made), made.method_names)
    assert summary["ranking"] == [("mezo", 1.0), ("so_lbfgs", 2.0)]


def test_tables_hold_every_method_failure_and_caveat() -> None:
    made = suite()
    results = finished(made)
    failed = next(r for r in results.values() if r["run"]["method"] == "so_lbfgs")
    failed["status"] = "failed"
    diverged = next(r for r in results.values() if r["run"]["method"] == "fo_sgd" and r["run"]["lr"] == 1e-2)
    assert diverged["run"]["stage"] == "tuning"
    text = markdown(json.loads(json.dumps(summarise(made, results, made.method_names))))
    assert "| 1 | fo_sgd | 0.01 | 0.301 +- 0.002 | 0.500 |" in text
    assert "so_lbfgs on cancer, seed 0 (final): made up" in text
    assert "With 3 seeds a mean difference must be" in text and "zoft test" in text
    assert "At equal time, the 1 s of mezo" in text and "At equal memory" not in text, "the model is too small"


def test_memory_is_compared_where_the_model_is_large_enough_to_measure() -> None:
    made = suite()
    results = finished(made, model_bytes=2**30)
    for r in results.values():
        r["extra_bytes"] = 2**30 if r["run"]["method"] == "fo_sgd" else 2**20
    text = markdown(json.loads(json.dumps(summarise(made, results, made.method_names))))
    assert (
        "At equal memory, at most 1128 MiB (1.1 x mezo), in this order: mezo, so_lbfgs. Too large: fo_sgd (2048" in text
    )


def test_plots_are_drawn_for_each_problem(tmp_path: Path) -> None:
    made = suite()
    files = plot(json.loads(json.dumps(summarise(made, finished(made), made.method_names))), tmp_path)
    assert [path.name for path in files] == ["cancer.png"] and files[0].read_bytes()[:4] == b"\x89PNG"


def test_parquet_has_a_row_for_each_run(tmp_path: Path) -> None:
    made = suite()
    results = finished(made)
    run = made.run("cancer", "mezo", 9.0, 0, "final")
    results[run.id] = {key: value for key, value in result(run, 0.0, "failed").items() if key != "scores"}
    write_parquet(results.values(), tmp_path / "runs.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "runs.parquet").to_pylist()
    assert {row["id"] for row in table} == set(results)
    assert table[-1]["status"] == "failed" and table[-1]["test_loss"] is None and table[0]["dev_loss"] > 0


# --- golden summaries ----------------------------------------------------------------------------------


def test_a_summary_is_its_own_golden_one() -> None:
    made = suite()
    expected = golden(json.loads(json.dumps(summarise(made, finished(made), made.method_names))))
    losses = {"cancer": {name: of["test_loss"] for name, of in expected["problems"]["cancer"].items()}}
    assert differences(expected, losses) == []
    runs = golden_runs(made, expected, ["cancer"], made.method_names)
    assert {(run.method, run.lr, run.seed) for run in runs} == {
        (name, None if name == "so_lbfgs" else 1e-2, seed) for name in LOSSES for seed in made.seeds
    }


def test_losses_orders_and_methods_that_are_not_the_golden_ones_are_named() -> None:
    expected = {
        "tolerance": {"loss": 0.02, "relative_loss": 0.05, "interval": 0.5},
        "problems": {
            "cancer": {
                "a": {"test_loss": 0.2, "half_width": None},
                "b": {"test_loss": 0.3, "half_width": 0.01},
                "c": {"test_loss": 0.21, "half_width": 0.0},
                "wild": {"test_loss": 0.5, "half_width": 1.0},
            }
        },
    }
    assert differences(expected, {"cancer": {"a": 0.22, "b": 0.29, "c": 0.19, "wild": 0.1}}) == [], "within tolerance"
    assert differences(expected, {"cancer": {"a": 0.31, "b": 0.3, "d": 0.1}}) == [
        "cancer: the test loss of a is 0.3100, it was 0.2000",
        "cancer: d is not in the golden summary",
        "cancer: a is no longer before b (0.3100 and 0.3000)",
    ]
    assert len(differences(expected, {"cancer": {"a": float("nan")}})) == 1, "a NaN is within no tolerance"


def test_an_unfinished_or_failed_benchmark_makes_no_golden_summary() -> None:
    made = suite()
    results = finished(made)
    results.pop(next(iter(results)))
    with pytest.raises(ConfigError, match="a golden summary needs a complete benchmark; 1 runs are missing"):
        golden(summarise(made, results, made.method_names))
