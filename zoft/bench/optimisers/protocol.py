"""What an optimiser is to the benchmark."""

from __future__ import annotations

from typing import Protocol

from zoft.bench.objective import Objective


class Optimiser(Protocol):
    """A frozen dataclass of options that minimises an objective until its budget is spent."""

    @property
    def tunes_lr(self) -> bool:
        """Whether it takes a learning rate; if not, it finds its step length itself."""

    def minimise(self, objective: Objective, lr: float) -> None:
        """Train until :class:`zoft.bench.objective.BudgetSpentError`, or until nothing is left to gain.

        ``objective.step_done()`` is called after each step. Whichever way this ends, the weights are those of the
        last complete step.
        """
