"""Prompted classification: the label is the option that the language model finds likeliest after a prompt.

A task is a template over the data's columns and one label word a class. After MeZO (https://arxiv.org/abs/2305.17333)
and, for masked models, LM-BFF (https://arxiv.org/abs/2012.15723).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from zoft.errors import ConfigError
from zoft.tasks.rows import Columns, label_key
from zoft.tasks.task import TrainsOn, spaced
from zoft.tasks.template import MASK, Parts, fill_parts, named_columns

__all__ = ["PromptedTask"]


@dataclass(frozen=True)
class PromptedTask:
    """A prompt template and what its possible continuations mean.

    ``label_words`` are written without a leading space. One is put before each word, because that is how a
    word in mid-sentence is tokenised; it is left out where the template already ends in whitespace (for
    masked models: where ``[MASK]`` does not follow whitespace).

    Args:
        template: Text with column names in braces; for masked language models it contains ``[MASK]`` once,
            where the label word is to be predicted. Literal braces are doubled.
        label_words: What the model should say, one for each class.
        labels: The data's values of ``label_column``, in the order of ``label_words``; default 0, 1, ...
        label_column: The column that holds the label.
        metric: The score by which results are told.
        trains_on: What the loss is.

    Raises:
        ConfigError: The template or the words cannot be used; the message says why.
    """

    template: str
    label_words: tuple[str, ...]
    labels: tuple[str | int | bool, ...] | None = None
    label_column: str = "label"
    metric: str = "accuracy"
    trains_on: TrainsOn = "options"

    def __post_init__(self) -> None:
        object.__setattr__(self, "label_words", tuple(self.label_words))  # YAML brings lists
        if self.labels is not None:
            object.__setattr__(self, "labels", tuple(self.labels))
        words = [word.strip() for word in self.label_words]
        if len(words) < 2:
            raise ConfigError(f"label_words needs at least two words, got {list(self.label_words)}")
        if len(set(words)) < len(words) or "" in words:
            raise ConfigError(f"label_words must differ and must not be empty, got {list(self.label_words)}")
        if len(self.label_keys) != len(words):
            raise ConfigError(
                f"labels must name one value for each of the {len(words)} label words, got {list(self.labels or ())}"
            )
        if len(set(self.label_keys)) < len(words):
            raise ConfigError(f"labels must differ, got {list(self.labels or ())}")
        check_template(self.template, hidden=self.label_column)

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that the template names, in order of first use."""
        return named_columns(self.template)

    @property
    def label_keys(self) -> tuple[str, ...]:
        """The labels as `label_key` writes them."""
        return tuple(map(label_key, range(len(self.label_words)) if self.labels is None else self.labels))

    @property
    def columns(self) -> Columns:
        """What the task reads of a row."""
        return Columns(text=self.text_columns, label=self.label_column, labels=self.label_keys)

    def with_mask(self) -> PromptedTask:
        """Return the task for masked language models: the mask stands where a label word would follow."""
        if MASK in self.template:
            return self
        space = "" if self.template[-1:].isspace() else " "
        return replace(self, template=f"{self.template}{space}{MASK}")

    def prompt_parts(self, row: Mapping[str, Any]) -> Parts:
        """Return the prompt in pieces."""
        return fill_parts(self.template, row)

    @property
    def spaced_words(self) -> tuple[str, ...]:
        """The label words with the leading space that the template calls for."""
        return spaced(self.template, self.label_words)

    def options(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return `spaced_words`: all rows have the same options."""
        return self.spaced_words

    def right(self, row: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the place of the row's label among the labels."""
        return (self.label_keys.index(label_key(row[self.label_column])),)


def check_template(template: str, *, hidden: str | None) -> None:
    """Refuse a template that cannot be used, or that shows the answer.

    Args:
        template: The template.
        hidden: The column that it must not show.

    Raises:
        ConfigError: The message says why.
    """
    columns = named_columns(template)
    if not columns:
        raise ConfigError(f"template {template!r} names no column; write for example '{{text}} It was'")
    if hidden in columns:
        raise ConfigError(f"the template shows the answer: it contains the label column {hidden!r}")
    if template.count(MASK) > 1:
        raise ConfigError(f"the template may contain {MASK} once, got {template!r}")
