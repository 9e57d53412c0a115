"""Small suites and made-up results for the tests of the benchmark."""

from __future__ import annotations

from typing import Any

from zoft.bench.run import Run
from zoft.bench.suite import Suite

PROBLEM = {"kind": "tabular", "dataset": "breast_cancer"}


def suite(**changes: Any) -> Suite:
    """A suite of one small problem and three methods, one of which takes no learning rate."""
    settings: dict[str, Any] = {
        "name": "test",
        "problems": {"cancer": dict(PROBLEM)},
        "methods": ["mezo", "fo_sgd", "so_lbfgs"],
        "budget_forwards": 40,
        "evaluations": 2,
        "seeds": [0, 1, 2],
        "lr_points": 3,
        "lr_max_extensions": 2,
        "lr_sensitivity": [0.5, 2.0],
        "zo_placement": "snapshot",
    }
    made = Suite(**{**settings, **changes})
    made.check()
    return made


def result(run: Run, loss: float, status: str = "done") -> dict[str, Any]:
    """What a run would have returned, with one loss everywhere."""
    scores = {split: {"loss": loss, "accuracy": 0.5} for split in ("train", "dev", "test", "shifted")}
    return {
        "run": dict(vars(run)),
        "status": status,
        "message": "made up",
        "scores": scores,
        "curve": [[0.0, 0.0, 1.0], [run.budget_forwards, 1.0, loss]],
        "forwards": run.budget_forwards,
        "steps": 1,
        "seconds": 1.0,
        "parameters": 62,
        "model_bytes": 248,
        "extra_bytes": 0,
        "environment": {"zoft": "test"},
    }
