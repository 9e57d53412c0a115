"""The section on configurations: all of the only run's, or where several differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from zoft.markdown import plain, table
from zoft.reporting.report import Section
from zoft.reporting.runs import Run

_NOTHING = "not set"


def configuration_section(runs: Sequence[Run]) -> Section:
    """Show the settings of a run, or those in which runs differ."""
    described = {run.name: describe(run) for run in runs}
    settings = list(described.values())
    text = ["## Configuration"]
    if len(runs) == 1:
        text.append(_source(runs[0]))
        shown = [name for name in settings[0] if _show(settings[0], name) != _NOTHING]
    else:
        names = dict.fromkeys(name for of in settings for name in of)
        shown = [name for name in names if len({_show(of, name) for of in settings}) > 1 and name != "output_dir"]
        text.append(
            "Settings in which the runs differ; all others are the same." if shown else "The runs' settings are equal."
        )
    if shown:
        rows = [[f"`{name}`", *(_show(of, name) for of in settings)] for name in shown]
        text.append(table([["", *(plain(run.label) for run in runs)], *rows]))
    return Section("configuration", "\n\n".join(text), {"runs": described, "shown": shown})


def describe(run: Run) -> dict[str, Any]:
    """Return a run's settings: those that were given and, under the log's names, those that decide its updates.

    Secrets for services, such as ``hub_token``, are left out.
    """
    settings = {name: value for name, value in (run.settings or {}).items() if not name.endswith("_token")}
    if settings or run.log is None:
        return settings
    return {**run.log.header["config"], "weight_decays": run.log.header["weight_decays"]}


def _source(run: Run) -> str:
    if run.settings is None:
        return "From the log, which holds what decides the updates, beside the learning rates of each step."
    return (
        "From `resolved_config.yaml`: every setting of ours, and those of `TrainingArguments` that are not the default."
    )


def _show(settings: Mapping[str, Any], name: str) -> str:
    if name not in settings or settings[name] is None:
        return _NOTHING
    text = json.dumps(settings[name], ensure_ascii=False)
    return plain(text[1:-1] if isinstance(settings[name], str) else text)
