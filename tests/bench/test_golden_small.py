"""The small tier still says what it said when its summary was committed.

To renew the summary after a change that was meant to move it, or after a method was added:

    zoft-bench methods --write_golden tests/bench/golden_small.json
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

from zoft.bench.execute import execute
from zoft.bench.golden import differences, golden_runs
from zoft.bench.suite import Suite
from zoft.recipe import read_recipe

GOLDEN = Path(__file__).with_name("golden_small.json")


@pytest.mark.slow
def test_methods_do_as_well_as_when_the_summary_was_committed() -> None:
    """At the committed learning rates, on all seeds: test losses within tolerance, and in the same order."""
    suite = Suite(**read_recipe("recipes/bench/small.yaml"))
    expected = json.loads(GOLDEN.read_text())
    assert (expected["suite"], expected["budget_forwards"]) == (suite.name, suite.budget_forwards)
    missing = [
        f"{method} on {problem}"
        for problem in suite.problem_names
        for method in suite.methods_on(problem, suite.method_names)
        if method not in expected["problems"][problem]
    ]
    assert not missing, f"renew the golden summary, which lacks {missing}:{__doc__}"
    losses: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in golden_runs(suite, expected, suite.problem_names, suite.method_names):
        losses[run.problem][run.method].append(execute(run)["scores"]["test"]["loss"])
    means = {p: {m: sum(values) / len(values) for m, values in of.items()} for p, of in losses.items()}
    assert differences(expected, means) == []
