"""Learning rates as the user and the schedule give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoft.estimators import Point
from zoft.types import StepRecord


class GivenStepSize:
    """Evaluates nothing and keeps nothing."""

    num_values = 0
    forwards = 0
    said = ""

    @property
    def figures(self) -> dict[str, float]:
        """None: the learning rate is logged anyway."""
        return {}

    def points(self) -> list[Point]:
        """None."""
        return []

    def measured(self, losses: Sequence[float]) -> list[float]:
        """Nothing."""
        return []

    def probe(self, total: Sequence[float]) -> tuple[float, ...]:
        """Nothing."""
        return ()

    def rates(self, record: StepRecord, lrs: Sequence[float]) -> list[float]:
        """The same."""
        return list(lrs)

    def took(self, record: StepRecord) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""
