"""The tuning rule: the same grid for all, which grows where its best is at an end; a diverged run is a bad one."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.bench.suites import result, suite
from zoft.bench.suite import Suite
from zoft.bench.tuning import Tuned, count_missing, final_runs, grid, plan, tune


def tuned_on(made: Suite, loss_of: Any, status: str = "done") -> Tuned:
    """Answer each wanted run with the loss that a function has at its learning rate."""
    results: dict[str, Any] = {}
    while (tuned := tune(made, results, "cancer", "mezo")).wanted:
        for run in tuned.wanted:
            results[run.id] = result(run, loss_of(run.lr), status)
    return tuned


def test_the_grid_is_geometric_around_its_centre() -> None:
    assert grid(1e-2, 4.0, 5) == [1e-2 / 16, 1e-2 / 4, 1e-2, 4e-2, 0.16]


@pytest.mark.parametrize(
    ("best", "chosen", "tried", "at_edge"),
    [
        (1e-2, 1e-2, 5, False),  # three, and one half-way to each side
        (1.6e-2, 2e-2, 5, False),
        (4e-2, 4e-2, 6, False),  # at the upper end; one more shows that it is the best
        (0.16, 0.16, 7, False),
        (2.5e-3, 2.5e-3, 6, False),
        (10.0, 1.28, 7, True),  # beyond what two extensions reach
    ],
)
def test_the_grid_grows_until_its_best_is_inside(best: float, chosen: float, tried: int, at_edge: bool) -> None:
    tuned = tuned_on(suite(), lambda lr: abs(math.log(lr / best)))
    assert tuned.lr == pytest.approx(chosen) and (len(tuned.tried), tuned.at_edge) == (tried, at_edge)


def test_of_equal_losses_the_smaller_rate_wins() -> None:
    tuned = tuned_on(suite(), lambda lr: 1.0 if lr > 4.1e-2 else 0.5 if lr > 6e-3 else 0.9)
    assert tuned.lr == pytest.approx(1e-2)


def test_a_diverged_run_takes_part_with_its_loss() -> None:
    tuned = tuned_on(suite(), lambda lr: 5.0 if lr > 1.5e-2 else 1e-3 / lr, status="diverged")
    assert tuned.lr == pytest.approx(1e-2)


def test_a_method_that_fails_at_every_rate_is_not_run_further() -> None:
    made = suite()
    results = {run.id: result(run, 0.1, "failed") for run in tune(made, {}, "cancer", "mezo").wanted}
    assert tune(made, results, "cancer", "mezo").failed
    assert not [run for run in plan(made, results, ["mezo"])]
    assert count_missing(made, results, "cancer", "mezo") == 0


def test_learning_rates_are_chosen_by_the_dev_split_on_a_seed_of_its_own() -> None:
    made = suite()
    for run in tune(made, {}, "cancer", "mezo").wanted:
        assert (run.stage, run.seed) == ("tuning", made.tuning_seed)
    finals = final_runs(made, "cancer", "mezo", 1e-2)
    assert made.tuning_seed not in {run.seed for run in finals}
    assert {(run.lr_factor, run.lr) for run in finals} == {(1.0, 1e-2), (0.5, 5e-3), (2.0, 2e-2)}


def test_what_is_missing_is_counted_ahead() -> None:
    made = suite()
    assert count_missing(made, {}, "cancer", "mezo") == 3 + 2 + 3 * 3
    assert count_missing(made, {}, "cancer", "so_lbfgs") == 3
