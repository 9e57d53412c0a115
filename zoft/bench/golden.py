"""The committed summary that tells when a method has silently become worse, or better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoft.bench.suite import Suite
from zoft.errors import ConfigError

# A different processor changes the last bits of a sum, and a run of hundreds of steps makes more of that: most where
# seeds make much of it already, hence a share of half their confidence interval.
TOLERANCE = {"loss": 0.02, "relative_loss": 0.05, "interval": 0.25}


def golden(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce a complete summary to what is compared: learning rates, mean test losses, rankings.

    Raises:
        ConfigError: If runs are missing or have failed.
    """
    if summary["missing_runs"] or summary["failures"]:
        raise ConfigError(
            f"a golden summary needs a complete benchmark; {summary['missing_runs']} runs are missing and "
            f"{len(summary['failures'])} failed. Run zoft-bench methods until it says that it is complete."
        )
    return {
        "suite": summary["suite"]["name"],
        "budget_forwards": summary["suite"]["budget_forwards"],
        "tolerance": TOLERANCE,
        "problems": {
            name: {
                method: {
                    "lr": of["lr"],
                    "test_loss": of["scores"]["test"]["loss"][0],
                    "half_width": of["scores"]["test"]["loss"][1],
                }
                for method, of in problem["methods"].items()
            }
            for name, problem in summary["problems"].items()
        },
    }


def differences(expected: Mapping[str, Any], losses: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Compare mean test losses, by problem and method, with a golden summary's.

    Besides each loss the order is compared, of every two methods that the golden losses tell apart.

    Returns:
        What differs, in words; empty if all is as it was.
    """
    found = []
    for problem, measured in losses.items():
        known = expected["problems"].get(problem, {})
        for method, loss in measured.items():
            if method not in known:
                found.append(f"{problem}: {method} is not in the golden summary")
                continue
            was = known[method]["test_loss"]
            if not abs(loss - was) <= allowed(expected, known[method]):
                found.append(f"{problem}: the test loss of {method} is {loss:.4f}, it was {was:.4f}")
        both = [method for method in measured if method in known]
        found += [
            f"{problem}: {a} is no longer before {b} ({measured[a]:.4f} and {measured[b]:.4f})"
            for a in both
            for b in both
            if measured[a] >= measured[b] and is_before(expected, known[a], known[b])
        ]
    return found


def allowed(expected: Mapping[str, Any], of: Mapping[str, Any]) -> float:
    """Return by how much a method's loss may differ from its golden one."""
    tolerance = expected["tolerance"]
    spread = tolerance["interval"] * (of["half_width"] or 0.0)
    return float(tolerance["loss"] + tolerance["relative_loss"] * of["test_loss"] + spread)


def is_before(expected: Mapping[str, Any], a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Return whether two golden losses are so far apart that a must stay before b."""
    return bool(a["test_loss"] + allowed(expected, a) < b["test_loss"] - allowed(expected, b))


def golden_runs(
    suite: Suite, expected: Mapping[str, Any], problems: Sequence[str], methods: Sequence[str]
) -> list[Any]:
    """Return the final runs at the golden learning rates: a check need not tune again."""
    return [
        suite.run(problem, method, expected["problems"][problem][method]["lr"], seed, "final")
        for problem in problems
        for method in methods
        if method in expected["problems"][problem]
        for seed in suite.seeds
    ]
