"""A run's replay log as its optimizer keeps it, and whether a log is of this run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from zoft.distributed import Replicas
from zoft.errors import ReplayError
from zoft.replay_log import ReplayLog
from zoft.types import StepRecord


class RunLog:
    """The log that the first process writes, and of which all know the records.

    Attributes:
        log: The log, on the process that writes it; None without one.
        records: What an interrupted run's log holds.
    """

    def __init__(self, replicas: Replicas) -> None:
        self.log: ReplayLog | None = None
        self.records: list[StepRecord] = []
        self._replicas = replicas

    def create(self, path: str | os.PathLike[str], header: dict[str, Any]) -> None:
        """Start a log."""
        self._keep(lambda: ReplayLog.create(path, header))

    def reopen(self, path: str | os.PathLike[str]) -> tuple[dict[str, Any], int]:
        """Go on with a log; return its header and its number of intents."""
        return self._keep(lambda: ReplayLog.open(path, to_append=True))

    def _keep(self, opened: Callable[[], ReplayLog]) -> tuple[dict[str, Any], int]:
        logs = []

        def read() -> tuple[dict[str, Any], int, list[StepRecord]]:
            logs.append(opened())
            return logs[0].header, logs[0].intents, logs[0].records

        header, intents, self.records = self._replicas.from_first(read)
        self.log = logs[0] if logs else None
        return header, intents

    def at(self, step: int) -> StepRecord | None:
        """Return a step's record, if it is logged."""
        return self.records[step] if step < len(self.records) else None

    def append(self, record: StepRecord, *, flush: bool) -> None:
        """Log a step; with ``flush``, to the disk itself."""
        if self.log is not None:
            self.log.append(record)
            if flush:
                self.log.flush()

    def flush(self) -> None:
        """Bring the log to the disk itself."""
        if self.log is not None:
            self.log.flush()

    def close(self) -> None:
        """Flush the log, and let other processes write it."""
        if self.log is not None:
            self.log.close()


def check_settings(path: str | os.PathLike[str], header: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Make sure that a log was made with a run's settings.

    Raises:
        ReplayError: If not; names the first that differs.
    """
    for key, mine in settings.items():
        if header.get(key) != mine:
            raise ReplayError(
                f"the log at {Path(path)} was made with {key} = {_difference(header.get(key), mine)}. Go on with "
                "the settings of the interrupted run, or start in another output_dir."
            )


def check_last_step(path: str | os.PathLike[str], last: StepRecord, records: Sequence[StepRecord]) -> None:
    """Make sure that the last step of a checkpoint is the one that a log has there.

    Raises:
        ReplayError: If not.
    """
    if not _same(last, records[last.step]):
        raise ReplayError(
            f"the log at {Path(path)} is of another run than this checkpoint: its step {last.step} "
            "differs. Resume where checkpoint and log belong together, or start in another output_dir."
        )


def _same(a: StepRecord, b: StepRecord) -> bool:
    # Not the loss, which may be NaN.
    return (a.step, a.scalars, a.lrs, a.skipped) == (b.step, b.scalars, b.lrs, b.skipped)


def _difference(theirs: Any, mine: Any) -> str:
    if isinstance(theirs, dict) and isinstance(mine, dict):
        keys = [k for k in theirs if theirs[k] != mine.get(k)]
        return ", ".join(f"{k}: {theirs[k]!r} (now {mine.get(k)!r})" for k in keys)
    if isinstance(theirs, list):
        a, b = next((a, b) for a, b in zip_longest(theirs, mine) if a != b)
        return f"... {a!r} (now {b!r})"
    return f"{theirs!r:.60} (now {mine!r:.60})"
