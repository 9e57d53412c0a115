"""The one line that repeats a run, and the one that rebuilds its weights."""

from __future__ import annotations

import shlex

from zoft.reporting.runs import Run


def train_again(run: Run) -> str | None:
    """Return the command that repeats a run; None if its settings are not known, or chance in it was secret."""
    if run.settings is None or run.private:
        return None
    folder = run.folder
    processes = int((run.measured or {}).get("processes", 1))
    command = ["zoft-train"]
    if processes > 1:
        command = ["accelerate", "launch", "--num_processes", str(processes), "-m", "zoft.cli.train"]
    return shlex.join([*command, "--config", f"{folder}/resolved_config.yaml", "--output_dir", f"{folder}-again"])


def replay(run: Run) -> str | None:
    """Return what rebuilds a run's weights from those it started from: a command or, without settings, Python.

    None without a log.
    """
    if run.log is None:
        return None
    if run.settings is None:
        return f"import zoft; zoft.replay(model, {str(run.log.path)!r})"
    files = ["--config", f"{run.folder}/resolved_config.yaml", "--log", str(run.log.path)]
    return shlex.join(["zoft-replay", *files, "--save_to", f"{run.folder}-replayed"])
