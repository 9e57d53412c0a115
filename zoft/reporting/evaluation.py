"""What ``zoft-eval`` prints: one table of scores, one of classes, and what before and after differ by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoft.evaluation.intervals import Difference
from zoft.markdown import table
from zoft.problems.modes import Measured

__all__ = ["evaluation_report"]


def evaluation_report(
    results: Mapping[str, Sequence[Measured]], differences: Mapping[str, Difference], metric: str
) -> str:
    """Return the report as Markdown.

    Args:
        results: What was measured of each model, by its name; scores with their intervals.
        differences: What before and after differ by, in each mode.
        metric: The score by which results are told.
    """
    flat = [(name, one) for name, of_model in results.items() for one in of_model]
    parts = [_scores(flat, metric), _classes(flat), _context(flat), _compared(differences)]
    return "\n\n".join(part for part in parts if part)


def _scores(flat: Sequence[tuple[str, Measured]], metric: str) -> str:
    header = ("model", "mode", f"{_plain(metric)} (95% interval)", "loss", "rows", "seconds")
    return table(
        [
            header,
            *(
                (
                    name,
                    one.mode,
                    _with_interval(one.evaluation.scores[metric], one.evaluation.scores.get(f"{metric}_ci")),
                    f"{one.evaluation.scores['loss']:.3f}",
                    str(one.evaluation.scores["n"]),
                    f"{one.facts['seconds']:.1f}",
                )
                for name, one in flat
            ),
        ]
    )


def _classes(flat: Sequence[tuple[str, Measured]]) -> str:
    """Return the share that is right of each class; nothing, where there are none."""
    _, first = flat[0]
    if "class_accuracy" not in first.evaluation.scores:
        return ""
    right = [one.right[0] for one in first.evaluation.predictions]
    names = {one.right[0]: one.expected[0] for one in first.evaluation.predictions}
    rows = [("class", "rows", *(f"{name}, {one.mode}" for name, one in flat))]
    for label in sorted(names):
        shares = [
            _with_interval(scores["class_accuracy"][label], scores["class_accuracy_ci"][label])
            for scores in (one.evaluation.scores for _, one in flat)
        ]
        rows.append((names[label], str(right.count(label)), *shares))
    return f"Right of each class (95% interval):\n\n{table(rows)}"


def _context(flat: Sequence[tuple[str, Measured]]) -> str:
    facts = next((one.facts for _, one in flat if "demonstrations" in one.facts), None)
    if facts is None:
        return ""
    shown, kept, fewest = (
        facts[name] for name in ("demonstrations", "demonstrations_kept", "fewest_demonstrations_kept")
    )
    fit = "all fit" if fewest == shown else f"{kept:.1f} fit before a prompt on average, {fewest} at least"
    return f"In context: {shown} demonstrations, of which {fit}."


def _compared(differences: Mapping[str, Difference]) -> str:
    lines = []
    for mode, one in differences.items():
        low, high = one.interval
        line = f"{mode}: after - before, {_plain(one.metric)} {one.value:+.3f} (95% interval {low:+.3f} to {high:+.3f})"
        lines.append(line if one.p_value is None else f"{line}, McNemar's exact test p = {one.p_value:.2g}")
    return "\n".join(lines)


def _with_interval(score: float, interval: Any) -> str:
    return f"{score:.3f}" if interval is None else f"{score:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def _plain(name: str) -> str:
    return name.replace("_", " ")
