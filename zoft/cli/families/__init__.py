"""Families of tasks: what kind of model each takes, and how a recipe becomes a problem for it.

A family is a module with ``load(parsed)``, which returns a model and what prepares its inputs (a tokenizer, an image
processor), and ``build(parsed, model, processor)``, which returns a :class:`zoft.problems.problem.Problem`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from zoft.cli.arguments import SFT, DataArguments

if TYPE_CHECKING:
    from zoft.cli.config import ParsedArguments
    from zoft.problems.problem import Problem

__all__ = ["Family", "family_of"]

_BY_TASK: dict[str, str] = {SFT: "sft"}  # names of tasks that are no prompts
_PROMPTED = "prompted"


class Family(Protocol):
    """What a family's module defines."""

    @staticmethod
    def load(parsed: ParsedArguments) -> tuple[Any, Any]:
        """Load the model, on the training device, and what prepares its inputs."""

    @staticmethod
    def build(parsed: ParsedArguments, model: Any, processor: Any) -> Problem:
        """Load, check, split and encode the rows."""


def family_of(data: DataArguments) -> Family:
    """Return the family of a recipe's task."""
    name = _BY_TASK.get(data.task or "", _PROMPTED)
    return cast("Family", import_module(f"{__name__}.{name}"))
