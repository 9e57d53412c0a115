"""Tasks that are answered in words: the model is trained to say an answer, and is scored on what it writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from zoft.checks import check_count
from zoft.errors import ConfigError
from zoft.tasks.prompted import check_template
from zoft.tasks.rows import Columns
from zoft.tasks.task import TrainsOn, spaced
from zoft.tasks.template import MASK, Parts, fill_parts, named_columns

__all__ = ["AnswerTask"]


@dataclass(frozen=True)
class AnswerTask:
    """A prompt and the answers that are accepted.

    Args:
        template: The prompt, see `zoft.tasks.prompted.PromptedTask`.
        answers_column: The column with a list of accepted answers; the first is trained on.
        stop: What ends an answer, for models that write on and on: it is trained on with the answer, and what is
            written is cut there. Models with an encoder end by their own token instead.
        max_new_tokens: The longest answer that is written, in tokens.
        metric: The score by which results are told.

    Raises:
        ConfigError: The arguments cannot be used; the message says why.
    """

    template: str
    answers_column: str = "answers"
    stop: str = "\n"
    max_new_tokens: int = 50
    metric: str = "f1"

    label_words = None
    trains_on: ClassVar[TrainsOn] = "answer"

    def __post_init__(self) -> None:
        check_template(self.template, hidden=self.answers_column)
        check_count("max_new_tokens", self.max_new_tokens)
        if not self.stop:
            raise ConfigError("stop must be a text that ends an answer, such as a line break; got nothing")
        if MASK in self.template:
            raise ConfigError(f"an answer has several words, and {MASK} stands for one token")

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that the template names."""
        return named_columns(self.template)

    @property
    def columns(self) -> Columns:
        """What the task reads of a row."""
        return Columns(text=self.text_columns, lists=(self.answers_column,))

    def prompt_parts(self, row: Mapping[str, Any]) -> Parts:
        """Return the prompt in pieces."""
        return fill_parts(self.template, row)

    def options(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the answer that is trained on, alone, with what ends it."""
        (answer,) = spaced(self.template, (row[self.answers_column][0],))
        return (answer + self.stop,)

    def right(self, row: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the place of the only option."""
        return (0,)

    def references(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return all answers that are accepted."""
        return tuple(row[self.answers_column])
