"""Approaches: by forward passes, or by gradients, with everything else of a recipe the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from zoft.cli.arguments.zeroth_order import ZOArguments

if TYPE_CHECKING:
    from zoft.cli.config import ParsedArguments
    from zoft.hf.tasks import ProblemTrainer
    from zoft.problems.problem import Problem

__all__ = ["Approach", "approach_of"]


class Approach(Protocol):
    """How a recipe's problem is trained."""

    @property
    def is_private(self) -> bool:
        """Whether nothing may be told that depends on the training rows, such as how long it took."""

    @property
    def evaluates(self) -> bool:
        """Whether the held-out rows may be measured."""

    @property
    def resolved(self) -> dict[str, Any]:
        """What the settings that a recipe may leave open have become."""

    @property
    def writes(self) -> tuple[str, ...]:
        """The files that it leaves besides those of every run."""

    def trainer(
        self, parsed: ParsedArguments, model: Any, processor: Any, problem: Problem, output_dir: Path
    ) -> ProblemTrainer:
        """Make the Trainer."""

    def summary(self, trainer: ProblemTrainer) -> dict[str, Any]:
        """Return a finished run's figures; ``steps`` and ``forwards`` are among them."""

    def remarks(self, trainer: ProblemTrainer) -> tuple[str, ...]:
        """Return what else to say of a finished run, a line each."""


def approach_of(parsed: ParsedArguments) -> Approach:
    """Return the approach that a recipe's method belongs to.

    Raises:
        ConfigError: The settings contradict each other or are out of range.
    """
    from zoft.cli.approaches.first_order import OPTIMIZERS, FirstOrder
    from zoft.cli.approaches.zeroth_order import ZerothOrder

    return FirstOrder.of(parsed) if parsed.get(ZOArguments).zo_method in OPTIMIZERS else ZerothOrder.of(parsed)
