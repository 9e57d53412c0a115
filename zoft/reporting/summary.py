"""The section that says what each run was and came to, runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zoft.markdown import plain, table, verbatim
from zoft.reporting import commands
from zoft.reporting.report import Section
from zoft.reporting.runs import Run

_HEADINGS = {"n": "held-out rows", "majority_share": "share of the commonest answer"}


def summary_section(runs: Sequence[Run]) -> Section:
    """Compare runs, or describe the only one."""
    parts = ["## Summary", table(_rows(runs))]
    for run in runs:
        title = [f"### {plain(run.label)}"] if len(runs) > 1 else []
        parts += [*title, *_again(run)]
        if run.notes:
            parts.append("\n".join(f"- {note}" for note in run.notes))
    return Section("summary", "\n\n".join(parts), {"runs": {run.name: describe(run) for run in runs}})


def describe(run: Run) -> dict[str, Any]:
    """Return a run's facts and figures as plain JSON types; None where they are not known."""
    measured, settings = run.measured or {}, run.settings or {}
    config = None if run.method is None else run.method.config
    return {
        "label": run.label,
        "finished": run.measured is not None,
        "private": run.private,
        "method": settings.get("zo_method") if config is None else config.method,
        "num_queries": None if config is None else config.num_queries,
        "zo_eps": None if config is None else config.zo_eps,
        "model": settings.get("model_name_or_path"),
        "data": settings.get("dataset") or settings.get("train_file") or settings.get("task"),
        "steps": run.steps,
        "planned_steps": run.planned_steps,
        "forwards": run.forwards,
        "trained_parameters": measured.get("trained_parameters"),
        "scores": {name: dict(scores) for name, scores in run.scores.items()},
        "log": _log(run),
        "train_again": commands.train_again(run),
        "replay": commands.replay(run),
        "notes": list(run.notes),
    }


def _rows(runs: Sequence[Run]) -> list[list[str]]:
    """Return the table: a column a run, and a row for whatever at least one of them says."""
    described = [describe(run) for run in runs]

    def row(title: str, show: Callable[[dict[str, Any]], str | None]) -> list[str]:
        return [title, *(show(facts) or "" for facts in described)]

    scores = dict.fromkeys(
        name for facts in described for when in facts["scores"].values() for name in when if _is_number(when[name])
    )
    rows = [
        row("base model", lambda facts: _text(facts["model"])),
        row("data", lambda facts: _text(facts["data"])),
        row("method", _method),
        row("steps", _steps),
        row("forwards", lambda facts: _count(facts["forwards"])),
        row("trained parameters", lambda facts: _count(facts["trained_parameters"])),
        *(row(_HEADINGS.get(name, f"held-out {_words(name)}"), _score(name)) for name in scores),
        row("replay log", lambda facts: facts["log"] and f"{_count(facts['log']['bytes'])} bytes"),
    ]
    return [["", *(plain(run.label) for run in runs)], *(cells for cells in rows if any(cells[1:]))]


def _again(run: Run) -> list[str]:
    """Return how to make the run, or its weights, once more."""
    again = commands.train_again(run)
    parts = []
    if again is not None:
        parts += ["To repeat the run:", verbatim(again, "sh")]
    elif run.private:
        parts.append("A private run cannot be repeated: nobody knows its noise and its batches.")
    replay = commands.replay(run)
    if replay is not None:
        parts += [
            "To rebuild its weights, bit for bit, from those that it started from:",
            verbatim(replay, "sh" if run.settings is not None else "python"),
            f"The replay log's SHA-256 is `{run.log_sha256}`.",
        ]
    return parts


def _log(run: Run) -> dict[str, Any] | None:
    if run.log is None:
        return None
    return {"path": str(run.log.path), "bytes": run.log.path.stat().st_size, "sha256": run.log_sha256}


def _method(facts: dict[str, Any]) -> str | None:
    if facts["num_queries"] is None:
        return f"{plain(facts['method'])}, by gradients" if facts["method"] else None
    queries = "1 query" if facts["num_queries"] == 1 else f"{facts['num_queries']} queries"
    return f"{plain(facts['method'])}, {queries} a step{', private' if facts['private'] else ''}"


def _steps(facts: dict[str, Any]) -> str:
    planned, steps = facts["planned_steps"], facts["steps"]
    return f"{steps:,}" if planned is None or planned == steps else f"{steps:,} of {planned:,}"


def _score(name: str) -> Callable[[dict[str, Any]], str | None]:
    def show(facts: dict[str, Any]) -> str | None:
        scores = facts["scores"]
        values = [scores[when][name] for when in ("before", "after") if name in scores.get(when, ())]
        shown = list(dict.fromkeys(map(_number, values)))
        if name not in _HEADINGS and "after_on_true_labels" in scores:
            shown.append(f"on true labels {_number(scores['after_on_true_labels'][name])}")
        said = " to ".join(shown[:2])
        if values and (interval := scores.get("after", scores.get("before", {})).get(f"{name}_ci")):
            said += f" (95% interval {_number(interval[0])} to {_number(interval[1])})"
        return said + "".join(f"; {more}" for more in shown[2:])

    return show


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _count(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"


def _text(value: object) -> str | None:
    return None if value is None else plain(value)


def _words(name: str) -> str:
    return plain(name.replace("_", " "))
