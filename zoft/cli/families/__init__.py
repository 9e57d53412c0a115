"""Families of tasks: what kind of model each takes, and how a recipe becomes a problem for it.

A family is a module with ``read(parsed)``, which returns checked rows, ``load(parsed, rows)``, which returns a model
and what prepares its inputs (a tokenizer, an image processor), and ``build(parsed, rows, model, processor)``, which
returns a :class:`zoft.problems.problem.Problem`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from zoft.cli.arguments.data import DataArguments
from zoft.cli.arguments.objective import ObjectiveArguments
from zoft.cli.arguments.run import RunArguments
from zoft.cli.arguments.tasks import IMAGES, SFT, TEXTS
from zoft.errors import ConfigError

if TYPE_CHECKING:
    from zoft.cli.config import ParsedArguments
    from zoft.problems.problem import Problem

__all__ = ["Family", "family_of"]

_BY_TASK = {SFT: "sft", IMAGES: "image_classification", TEXTS: "text_classification"}  # tasks that are no prompts
_PROMPTED, _REWARDED = "prompted", "rewarded"


class Family(Protocol):
    """What a family's module defines."""

    @staticmethod
    def read(parsed: ParsedArguments) -> Any:
        """Load, check and split the rows."""

    @staticmethod
    def load(parsed: ParsedArguments, rows: Any = None) -> tuple[Any, Any]:
        """Load the model, on the training device, and what prepares its inputs.

        ``rows`` are what ``read`` returned; None where there is only the recipe, as in a replay.
        """

    @staticmethod
    def build(parsed: ParsedArguments, rows: Any, model: Any, processor: Any) -> Problem:
        """Encode the rows for the model, and look for what is wrong with them."""


def family_of(parsed: ParsedArguments) -> Family:
    """Return the family of a recipe's task.

    Raises:
        ConfigError: The recipe asks for a linear probe, and its task has no layer to probe.
    """
    task = parsed.get(DataArguments).task
    if parsed.get(RunArguments).linear_probe_first and task not in (IMAGES, TEXTS):
        raise ConfigError(
            f"linear_probe_first fits a model's layer for classes, and only task {IMAGES} or {TEXTS} has one; leave it "
            "out"
        )
    otherwise = _REWARDED if parsed.get(ObjectiveArguments).reward_funcs else _PROMPTED
    name = _BY_TASK.get(task or "", otherwise)
    return cast("Family", import_module(f"{__name__}.{name}"))
