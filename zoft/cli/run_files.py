"""A run's folder, read for a report: the log must be there, everything else may be."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from zoft.errors import ConfigError
from zoft.log_file import LOG_NAME, ReplayLog
from zoft.recipe import read_recipe
from zoft.reporting.runs import Run
from zoft.tasks.hygiene import DataReport

METRICS, SETTINGS, EXAMPLES, STATE = "metrics.json", "resolved_config.yaml", "examples.json", "trainer_state.json"
DATA = "data.json"
"""The names of the files that ``zoft-train`` leaves beside the log."""


def is_by_gradients(name: str) -> bool:
    """Whether this is the folder of a run that has no replay log, but a Trainer's."""
    return Path(name).is_dir() and not Path(name, LOG_NAME).exists() and any(_states(Path(name)))


def read_runs(names: Sequence[str], logs: Mapping[str, ReplayLog]) -> list[Run]:
    """Read runs' folders.

    Args:
        names: How the user called the runs.
        logs: The logs of those that have one, by these names.
    """
    folders = [logs[name].path.parent if name in logs else Path(name) for name in names]
    # Their own names, where those tell the runs apart.
    short = [folder.resolve().name for folder in folders]
    labels = short if len(set(short)) == len(short) else names
    return [
        _read(name, label, folder if folder.name else folder.resolve(), logs.get(name))
        for name, label, folder in zip(names, labels, folders, strict=True)
    ]


def _read(name: str, label: str, folder: Path, log: ReplayLog | None) -> Run:
    notes = list[str]()
    # Files beside an earlier run's log, such as zo_log.1, are not its own.
    beside = log is None or log.path.name == LOG_NAME
    last, history = _history(folder, None if log is None else len(log.records), notes) if beside else (0, ())
    steps = last if log is None else len(log.records)
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
        folder=folder,
        log=log,
        steps=steps,
        log_sha256="" if log is None else hashlib.sha256(log.path.read_bytes()).hexdigest(),
        logged=history,
        measured=metrics,
        settings=_settings(folder / SETTINGS, notes) if beside else None,
        given_examples=examples or (),
        given_data=_inspected(folder / DATA, notes) if beside else None,
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


def _inspected(file: Path, notes: list[str]) -> DataReport | None:
    content = _json(file, dict, notes)
    if content is None:
        return None
    try:
        return DataReport.from_dict(content)
    except (KeyError, TypeError):
        notes.append(f"`{file.name}` is not what `zoft-train` writes under this name, or another version's.")
        return None


def _states(folder: Path) -> Iterator[Path]:
    """Return the logs of Trainers in a folder: that of its end, and those of checkpoints."""
    checkpoints = (path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name))
    return filter(Path.exists, (folder / STATE, *(path / STATE for path in checkpoints)))


def _history(folder: Path, steps: int | None, notes: list[str]) -> tuple[int, Sequence[Mapping[str, Any]]]:
    """Return the longest log of a Trainer that is not ahead of the replay log, if there is one, and its last step."""
    found = [state for file in _states(folder) if (state := _json(file, dict, notes)) is not None]
    limit = math.inf if steps is None else steps
    fit = [(state["global_step"], state["log_history"]) for state in found if state["global_step"] <= limit]
    if not fit:
        notes.append(f"There is no `{STATE}` of this run yet, so what its Trainer logged is not known.")
        return 0, ()
    last, history = max(fit, key=itemgetter(0))
    if steps is not None and last < steps:
        notes.append(f"What its Trainer logged is known up to step {last}, of the last checkpoint.")
    return last, history


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
