"""A run's folder, read for a report: the log must be there, everything else may be."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoft.cli.recipe import read_recipe
from zoft.errors import ConfigError
from zoft.log_file import LOG_NAME, ReplayLog
from zoft.reporting.runs import Run

METRICS, SETTINGS, EXAMPLES, STATE = "metrics.json", "resolved_config.yaml", "examples.json", "trainer_state.json"
"""The names of the files that ``zoft-train`` leaves beside the log."""


def read_runs(logs: Mapping[str, ReplayLog]) -> list[Run]:
    """Read what lies beside logs.

    Args:
        logs: The logs, by the names that the user gave them.
    """
    return [_read(name, label, log) for (name, log), label in zip(logs.items(), _labels(logs), strict=True)]


def _labels(logs: Mapping[str, ReplayLog]) -> list[str]:
    """Return the folders' own names where they tell the runs apart, else the names that the user gave."""
    short = [log.path.resolve().parent.name for log in logs.values()]
    return short if len(set(short)) == len(short) else list(logs)


def _read(name: str, label: str, log: ReplayLog) -> Run:
    folder, steps, notes = log.path.resolve().parent, len(log.records), list[str]()
    beside = log.path.name == LOG_NAME  # files beside an earlier run's log, such as zo_log.1, are not its own
    metrics = _json(folder / METRICS, dict, notes) if beside else None
    is_current = metrics is None or metrics.get("steps") == steps
    if not is_current:
        metrics = None
        notes.append(
            f"`{METRICS}` is not that of {steps} steps, so it (and `{EXAMPLES}`) is left out: the run goes on, was cut "
            "off after it had been resumed, or is a later one in the same folder."
        )
    examples = _json(folder / EXAMPLES, list, notes) if beside and is_current else None
    return Run(
        name=name,
        label=label,
        log=log,
        log_sha256=hashlib.sha256(log.path.read_bytes()).hexdigest(),
        logged=_history(folder, steps, notes) if beside else (),
        measured=metrics,
        settings=_settings(folder / SETTINGS, notes) if beside else None,
        given_examples=examples or (),
        notes=notes,
    )


def _settings(file: Path, notes: list[str]) -> dict[str, Any] | None:
    if not file.exists():
        notes.append(f"There is no `{file.name}`: the run was not started by `zoft-train`.")
        return None
    try:
        return read_recipe(file)
    except ConfigError as error:
        notes.append(f"`{file.name}` cannot be read: {error}")
        return None


def _history(folder: Path, steps: int, notes: list[str]) -> Sequence[Mapping[str, Any]]:
    """Return the longest log of a Trainer that is not ahead of the replay log: that of its end or of a checkpoint."""
    checkpoints = (path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name))
    best: tuple[int, Sequence[Mapping[str, Any]]] | None = None
    for file in (folder / STATE, *(path / STATE for path in checkpoints)):
        state = _json(file, dict, notes)
        if state is not None and state["global_step"] <= steps and (best is None or state["global_step"] > best[0]):
            best = (state["global_step"], state["log_history"])
    if best is None:
        notes.append(f"There is no `{STATE}` of this run yet, so what its Trainer logged is not known.")
        return ()
    if best[0] < steps:
        notes.append(f"What its Trainer logged is known up to step {best[0]}, of the last checkpoint.")
    return best[1]


def _json(file: Path, kind: type, notes: list[str]) -> Any:
    """Return a file's content; None, and a note if the file is there, where it cannot be used."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        notes.append(f"`{file.name}` cannot be read.")
        return None
    if not isinstance(content, kind):
        notes.append(f"`{file.name}` holds a {type(content).__name__} where a {kind.__name__} was expected.")
        return None
    return content
