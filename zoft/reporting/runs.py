"""What a report knows of a run: its replay log, and whatever else was found beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from zoft.log_file import ReplayLog
from zoft.method import Method, build_method
from zoft.tasks.hygiene import DataReport
from zoft.types import StepRecord, ZOConfig

Scores = Mapping[str, Mapping[str, float]]
"""Held-out scores by when they were measured: ``{"before": {"accuracy": 0.5, ...}, "after": ...}``."""

# Of a private run nothing else that a Trainer logs is shown, whoever wrote it: docs/privacy.md.
_PUBLIC = ("step", "epoch", "learning_rate", "projected_grad", "epsilon")


@dataclass(frozen=True)
class Run:
    """One run, finished or not.

    Attributes:
        name: How the user called it.
        label: Short, and no other run's in the report.
        folder: Where its files are.
        log: Its replay log; None if it trained by gradients, and so has none.
        steps: How many it took.
        log_sha256: The hash of the log's file, "" without one.
        logged: What its Trainer logged, in order; of a private run, use :attr:`history`.
        measured: The content of ``metrics.json``; of a private run, use :attr:`scores`.
        settings: The content of ``resolved_config.yaml``.
        given_examples: The content of ``examples.json``; of a private run, use :attr:`examples`.
        given_data: The content of ``data.json``; of a private run, use :attr:`data`.
        notes: What was not there or was not used, in sentences.
    """

    name: str
    label: str
    folder: Path
    log: ReplayLog | None
    steps: int
    log_sha256: str = ""
    logged: Sequence[Mapping[str, Any]] = ()
    measured: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] | None = None
    given_examples: Sequence[Mapping[str, str]] = ()
    given_data: DataReport | None = None
    notes: Sequence[str] = ()

    @property
    def records(self) -> Sequence[StepRecord]:
        """The log's records of steps."""
        return [] if self.log is None else self.log.records

    @cached_property
    def method(self) -> Method | None:
        """The zeroth-order method, with every choice made; None without a log."""
        return None if self.log is None else build_method(ZOConfig(**self.log.header["config"]))

    @property
    def promise(self) -> Mapping[str, Any] | None:
        """The plan of a private run, as plain types; None if it is not private."""
        return None if self.log is None else self.log.header.get("privacy")

    @property
    def private(self) -> bool:
        """Whether the run is differentially private."""
        return self.promise is not None

    @property
    def shows_scores(self) -> bool:
        """Whether held-out rows may be reported on."""
        return self.promise is None or bool(self.promise["config"]["dp_eval_is_public"])

    @property
    def history(self) -> list[Mapping[str, Any]]:
        """What its Trainer logged and may be shown."""
        if not self.private:
            return list(self.logged)
        return [
            {key: x for key, x in entry.items() if key in _PUBLIC or (self.shows_scores and key.startswith("eval_"))}
            for entry in self.logged
        ]

    @property
    def scores(self) -> Scores:
        """Held-out scores before and after training, as far as they were measured and may be shown."""
        if self.measured is None or not self.shows_scores:
            return {}
        return {name: x for name, x in self.measured.items() if name.startswith(("before", "after"))}

    @property
    def examples(self) -> Sequence[Mapping[str, str]]:
        """Held-out examples with the model's answers, if they may be shown."""
        return self.given_examples if self.shows_scores else ()

    @property
    def data(self) -> DataReport | None:
        """What its rows were found to be like; nothing of a private run's, whose rows are not inspected."""
        return None if self.private else self.given_data

    @cached_property
    def slopes(self) -> tuple[np.ndarray, np.ndarray]:
        """Each projected gradient with its step's number from 1: (steps, slopes), both of shape [n].

        Those of steps that moved no weight are left out: a loss was not finite, or a clip threshold was measured.
        """
        pairs: list[tuple[int, float]] = []
        if self.method is not None:
            slopes_of = self.method.estimator.projected_grads
            moved = [record for record in self.records if not record.skipped]
            pairs = [(record.step + 1, slope) for record in moved for slope in slopes_of(record.scalars)]
        steps, slopes = np.array(pairs, dtype=float).reshape(-1, 2).T
        return steps, slopes

    @cached_property
    def losses(self) -> tuple[np.ndarray, np.ndarray]:
        """Each finite training loss with its step's number from 1: (steps, losses). Of a private run there is none.

        Without a log, those that the Trainer logged, each a mean over some steps.
        """
        pairs = [(record.step + 1, record.loss) for record in self.records if math.isfinite(record.loss)]
        if self.log is None:
            pairs = self.points("loss")
        steps, losses = np.array([] if self.private else pairs, dtype=float).reshape(-1, 2).T
        return steps, losses

    @property
    def forwards(self) -> int | None:
        """Forwards that the run has cost, of micro-batches, on each process; None if the log alone does not tell."""
        if self.measured is not None and "forwards" in self.measured:
            return int(self.measured["forwards"])
        if self.settings is None or self.method is None or self.method.config.zo_lr == "auto":
            return None
        micro_batches = int(self.settings.get("gradient_accumulation_steps", 1))
        return self.steps * self.method.estimator.forwards * micro_batches

    @property
    def planned_steps(self) -> int | None:
        """How many steps the run was to take, None if the settings do not say."""
        planned = int((self.settings or {}).get("max_steps", -1))
        return planned if planned > 0 else None

    def points(self, key: str) -> list[tuple[int, float]]:
        """Return the finite values that the Trainer logged under a key, as (step, value)."""
        return [
            (int(entry["step"]), float(entry[key]))
            for entry in self.history
            if key in entry and math.isfinite(float(entry[key]))
        ]
