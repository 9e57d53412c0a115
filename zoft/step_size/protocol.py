"""The seam between the optimizer and the choice of a step's size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from zoft.estimators import Point
from zoft.types import StepRecord


class StepSize(Protocol):
    """Turns the groups' learning rates into those of a step's record.

    All that it decides is a function of the records and of the rates that it is given, so that every process, and a run
    that goes on from its log, decides the same.

    Attributes:
        num_values: How many numbers :meth:`measured` returns.
    """

    num_values: int

    @property
    def forwards(self) -> int:
        """Evaluations of each micro-batch that were asked for so far, beside the estimates."""

    @property
    def figures(self) -> dict[str, float]:
        """What a log line should show of the last step's size."""

    @property
    def said(self) -> str:
        """What was chosen, and from what, in one line; empty until it is."""

    def points(self) -> list[Point]:
        """Return the points at which the present step's losses are wanted, beside its estimate."""

    def measured(self, losses: Sequence[float]) -> list[float]:
        """Combine the losses at :meth:`points`, linearly: the results of micro-batches and processes add up."""

    def probe(self, total: Sequence[float]) -> tuple[float, ...]:
        """Return the record's probe from the sum of what :meth:`measured` returned."""

    def rates(self, record: StepRecord, lrs: Sequence[float]) -> list[float]:
        """Return the learning rate of each group for the present step.

        Args:
            record: The step's record, whose ``lrs`` do not count yet. Called once a step, in order.
            lrs: The groups' learning rates, as a schedule has set them.
        """

    def took(self, record: StepRecord) -> None:
        """Note the step as it is about to be applied."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain types."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
