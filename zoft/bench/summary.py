"""From results to a summary in JSON types, which tables, plots and golden files are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from zoft.bench.run import Run
from zoft.bench.statistics import caveat, holm, mean_with_interval, paired_p, verdict
from zoft.bench.suite import Suite
from zoft.bench.tuning import Results, final_runs, plan, tune

Result = Mapping[str, Any]


def summarise(suite: Suite, results: Results, methods: Sequence[str]) -> dict[str, Any]:
    """Summarise what is there; runs that are still to be made are counted.

    Returns:
        ``suite``, ``missing_runs``, ``environments``, ``caveat``, ``failures``, ``problems`` (by name: ``methods``
        with what :func:`_method` returns, and ``ranking``: names by mean test loss), and ``ranking``: pairs of name
        and mean rank, of the methods that ran on all problems.
    """
    problems = {problem: _problem(suite, results, problem, methods) for problem in suite.problem_names}
    environments: list[Any] = []
    for result in results.values():
        if result["environment"] not in environments:
            environments.append(result["environment"])
    return {
        "suite": asdict(suite),
        "missing_runs": len(plan(suite, results, methods)),
        "environments": environments,
        "caveat": caveat(len(suite.seeds), max(map(_comparisons, problems.values()))),
        "failures": [f"{Run(**r['run'])}: {r['message']}" for r in results.values() if r["status"] == "failed"],
        "problems": problems,
        "ranking": _mean_ranks([problem["ranking"] for problem in problems.values()], methods),
    }


def _comparisons(problem: Mapping[str, Any]) -> int:
    """Return how many methods are compared with the reference on a problem."""
    return sum("against_reference" in of for of in problem["methods"].values())


def write_parquet(results: Iterable[Result], path: Path) -> None:
    """Write one row a run: what it was, what came of it, and where."""
    import pyarrow
    import pyarrow.parquet

    rows = []
    for result in results:
        run = Run(**result["run"])
        scores = {
            f"{split}_{measure}": value
            for split, of_split in result.get("scores", {}).items()
            for measure, value in of_split.items()
        }
        plain = {key: value for key, value in result.items() if key not in ("run", "scores", "environment")}
        own = {key: value for key, value in asdict(run).items() if key not in ("task", "options")}
        settings = {"task": str(run.task), "options": str(run.options), "environment": str(result["environment"])}
        rows.append({"id": run.id, **own, **settings, **scores, **plain})
    columns = dict.fromkeys(name for row in rows for name in row)  # a failed run lacks some
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in columns})
    pyarrow.parquet.write_table(table, path)


def _problem(suite: Suite, results: Results, problem: str, methods: Sequence[str]) -> dict[str, Any]:
    by_method: dict[str, dict[str, Any]] = {}
    finished: dict[str, list[Result]] = {}
    for method in suite.methods_on(problem, methods):
        tuned = tune(suite, results, problem, method)
        if tuned.failed or tuned.wanted:
            continue
        runs = [results[run.id] for run in final_runs(suite, problem, method, tuned.lr) if run.id in results]
        runs = [run for run in runs if run["status"] != "failed"]
        best = [run for run in runs if run["run"]["lr_factor"] == 1.0]
        if len(best) == len(suite.seeds):
            finished[method] = best
            by_method[method] = {
                "lr": tuned.lr,
                "lr_at_edge": tuned.at_edge,
                **_method(suite, best),
                "sensitivity": _sensitivity(runs),
            }
    if suite.reference in finished:
        _compare(suite, finished, by_method)
    ranking = sorted(by_method, key=lambda name: (by_method[name]["scores"]["test"]["loss"][0], name))
    return {"methods": by_method, "ranking": ranking}


def _method(suite: Suite, runs: Sequence[Result]) -> dict[str, Any]:
    """Reduce the runs of all seeds at the best rate. Means are pairs of the mean and half its interval."""
    interval = suite.budget_forwards / suite.evaluations
    curves = [run["curve"] for run in runs]
    return {
        "scores": {
            split: {
                measure: mean_with_interval([run["scores"][split][measure] for run in runs])
                for measure in ("loss", "accuracy")
            }
            for split in runs[0]["scores"]
        },
        "diverged": sum(run["status"] == "diverged" for run in runs),
        "parameters": runs[0]["parameters"],
        "model_bytes": runs[0]["model_bytes"],
        "extra_bytes": max((run["extra_bytes"] for run in runs if run["extra_bytes"] is not None), default=None),
        **{name: sum(run[name] for run in runs) / len(runs) for name in ("steps", "forwards", "seconds")},
        "curve": [
            (k * interval, *mean_with_interval([loss_at(curve, 0, k * interval) for curve in curves]))
            for k in range(suite.evaluations + 1)
        ],
    }


def _sensitivity(runs: Sequence[Result]) -> list[Any]:
    """Return (multiple of the best rate, mean test loss, half its interval), in ascending order."""
    factors = sorted({run["run"]["lr_factor"] for run in runs})
    of = {f: [run["scores"]["test"]["loss"] for run in runs if run["run"]["lr_factor"] == f] for f in factors}
    return [(factor, *mean_with_interval(losses)) for factor, losses in of.items()]


def _compare(suite: Suite, finished: Mapping[str, list[Result]], by_method: Mapping[str, dict[str, Any]]) -> None:
    """Compare with the reference on the same seeds, and at the time and the memory that the reference takes."""
    losses = {name: [run["scores"]["test"]["loss"] for run in runs] for name, runs in finished.items()}
    theirs = losses[suite.reference]
    p_values = {name: paired_p(ours, theirs) for name, ours in losses.items() if name != suite.reference}
    adjusted = holm({name: p for name, p in p_values.items() if p is not None})
    seconds = by_method[suite.reference]["seconds"]
    for name, runs in finished.items():
        by_method[name]["loss_at_reference_seconds"] = mean_with_interval(
            [loss_at(run["curve"], 1, seconds) for run in runs]
        )
        if name != suite.reference:
            difference = sum(losses[name]) / len(theirs) - sum(theirs) / len(theirs)
            p = adjusted.get(name)
            by_method[name]["against_reference"] = {
                "difference": difference,
                "p": p_values[name],
                "p_holm": p,
                "verdict": verdict(difference, p),
            }


def loss_at(curve: Sequence[Sequence[float]], column: int, limit: float) -> float:
    """Return a run's dev loss when it had spent a number of forwards (column 0) or seconds (1).

    Between two points of its curve it is interpolated; after the last one it stays.
    """
    return float(np.interp(limit, [row[column] for row in curve], [row[2] for row in curve]))


def _mean_ranks(rankings: Sequence[Sequence[str]], methods: Sequence[str]) -> list[tuple[str, float]]:
    """Average the ranks, among each other, of the methods that have a result on every problem."""
    everywhere = [name for name in methods if all(name in ranking for ranking in rankings)]
    among = [[name for name in ranking if name in everywhere] for ranking in rankings]
    ranks = {name: sum(ranking.index(name) + 1 for ranking in among) / len(among) for name in everywhere}
    return sorted(ranks.items(), key=lambda item: (item[1], item[0]))
