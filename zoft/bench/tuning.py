"""Which runs a suite still needs, given what has been run: one rule of tuning for all methods.

1. Each method that takes a learning rate trains with each rate of a geometric grid, on the tuning seed; the one
   with the lowest dev loss at the end of the budget is its best. A diverged run is a bad one, not a missing one.
2. While the best is at an end of the grid, the grid grows by one point there, at most ``lr_max_extensions`` times.
3. The two rates half-way (geometrically) from the best to its neighbours are tried, and the best of the three stays.
4. The best rate, and its multiples, train on the other seeds, and only these are scored on the test splits.

Pure functions of suite and results, so a benchmark that was killed goes on by planning anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoft.bench.optimisers import make_optimiser
from zoft.bench.run import Run
from zoft.bench.suite import Suite

Results = Mapping[str, Mapping[str, Any]]
"""By run id: what :func:`zoft.bench.execute.execute` returned."""


@dataclass(frozen=True)
class Tuned:
    """How the tuning of one method on one problem stands.

    Attributes:
        tried: The tuning runs so far, with those that are wanted.
        wanted: Runs that must be made before more can be said.
        lr: The chosen learning rate; None while there is none, and for methods that take none.
        failed: Every learning rate failed, so there is nothing to choose from.
        at_edge: The best is at an end of a grid that may not grow further: the method may be undersold.
    """

    tried: tuple[Run, ...] = ()
    wanted: tuple[Run, ...] = ()
    lr: float | None = None
    failed: bool = False
    at_edge: bool = False


def grid(centre: float, ratio: float, points: int) -> list[float]:
    """Return ``points`` rates in ascending order, geometric with the given ratio around the centre."""
    return [centre * ratio**k for k in range(-(points // 2), points // 2 + 1)]


def tune(suite: Suite, results: Results, problem: str, method: str) -> Tuned:
    """Apply the rule to one method on one problem."""
    if not takes_lr(suite, method, problem):
        return Tuned()
    rates = grid(suite.centre(method, problem), suite.lr_ratio, suite.lr_points)
    for extensions_left in range(suite.lr_max_extensions, -1, -1):
        tried = tuple(suite.run(problem, method, lr, suite.tuning_seed, "tuning") for lr in rates)
        wanted = tuple(run for run in tried if run.id not in results)
        if wanted:
            return Tuned(tried, wanted)
        losses = {lr: _dev_loss(results[run.id]) for lr, run in zip(rates, tried, strict=True)}
        if all(loss == math.inf for loss in losses.values()):
            return Tuned(tried, failed=True)
        best = min(rates, key=lambda lr: losses[lr])
        at_edge = best in (rates[0], rates[-1])
        if not (at_edge and extensions_left):
            break
        rates = [rates[0] / suite.lr_ratio, *rates] if best == rates[0] else [*rates, rates[-1] * suite.lr_ratio]
    halves = [best / math.sqrt(suite.lr_ratio), best * math.sqrt(suite.lr_ratio)]
    finer = tuple(suite.run(problem, method, lr, suite.tuning_seed, "tuning") for lr in halves)
    wanted = tuple(run for run in finer if run.id not in results)
    if wanted:
        return Tuned(tried + finer, wanted)
    losses |= {lr: _dev_loss(results[run.id]) for lr, run in zip(halves, finer, strict=True)}
    return Tuned(tried + finer, lr=min([halves[0], best, halves[1]], key=lambda lr: losses[lr]), at_edge=at_edge)


def final_runs(suite: Suite, problem: str, method: str, lr: float | None) -> list[Run]:
    """Return a tuned method's runs: at its best rate, then at the multiples, on every seed."""
    factors = [1.0] if lr is None else [1.0, *suite.lr_sensitivity]
    return [
        suite.run(problem, method, None if lr is None else factor * lr, seed, "final", factor)
        for factor in factors
        for seed in suite.seeds
    ]


def plan(suite: Suite, results: Results, methods: Sequence[str]) -> list[Run]:
    """Return the runs that can be made now; none are left when the benchmark is complete."""
    runs: list[Run] = []
    for problem in suite.problem_names:
        for method in suite.methods_on(problem, methods):
            tuned = tune(suite, results, problem, method)
            if tuned.wanted:
                runs += tuned.wanted
            elif not tuned.failed:
                runs += [run for run in final_runs(suite, problem, method, tuned.lr) if run.id not in results]
    return runs


def used(suite: Suite, results: Results, methods: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Return the results that belong to the suite: other settings may have left some beside them."""
    runs: list[Run] = []
    for problem in suite.problem_names:
        for method in suite.methods_on(problem, methods):
            tuned = tune(suite, results, problem, method)
            runs += tuned.tried
            runs += final_runs(suite, problem, method, tuned.lr)
    return {run.id: results[run.id] for run in runs if run.id in results}


def count_missing(suite: Suite, results: Results, problem: str, method: str) -> int:
    """Return about how many runs are still to be made: two more than are wanted now, if no grid has to grow."""
    tuned = tune(suite, results, problem, method)
    if tuned.wanted:
        return len(tuned.wanted) + 2 + (1 + len(suite.lr_sensitivity)) * len(suite.seeds)
    finals = [] if tuned.failed else final_runs(suite, problem, method, tuned.lr)
    return sum(run.id not in results for run in finals)


def takes_lr(suite: Suite, method: str, problem: str) -> bool:
    """Return whether a method of the suite has a learning rate to tune."""
    return make_optimiser(suite.optimiser(method, problem), suite.options(method, problem), method).tunes_lr


def _dev_loss(result: Mapping[str, Any]) -> float:
    return math.inf if result["status"] == "failed" else float(result["scores"]["dev"]["loss"])
