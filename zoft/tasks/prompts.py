"""Prompts alone: what a model writes after them is judged, and nothing is given that would be right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoft.errors import ConfigError
from zoft.tasks.prompted import check_template
from zoft.tasks.rows import Columns
from zoft.tasks.task import TrainsOn
from zoft.tasks.template import MASK, Parts, fill_parts, named_columns

__all__ = ["PromptTask"]


@dataclass(frozen=True)
class PromptTask:
    """A prompt.

    Args:
        template: The prompt, see `zoft.tasks.prompted.PromptedTask`.
        columns: What is read of a row; default: what the template names.

    Raises:
        ConfigError: The template cannot be used; the message says why.
    """

    template: str
    columns: Columns = Columns(())

    metric = "reward"
    label_words = None
    trains_on: TrainsOn = "answer"

    def __post_init__(self) -> None:
        check_template(self.template, hidden=self.columns.label)
        if MASK in self.template:
            raise ConfigError(f"a model is to write after the prompt, and {MASK} is for models that fill a gap")
        if self.columns == Columns(()):
            object.__setattr__(self, "columns", Columns(self.text_columns))

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that the template names."""
        return named_columns(self.template)

    def prompt_parts(self, row: Mapping[str, Any]) -> Parts:
        """Return the prompt in pieces."""
        return fill_parts(self.template, row)

    def options(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return nothing: anything may follow."""
        return ()

    def right(self, row: Mapping[str, Any]) -> tuple[int, ...]:
        """Return nothing."""
        return ()
