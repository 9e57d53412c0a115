"""Tasks whose rows bring their own options: multiple choice, and filling a gap with one of several candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoft.errors import ConfigError, DataError
from zoft.tasks.prompted import check_template
from zoft.tasks.rows import Columns, label_key, missing_label
from zoft.tasks.task import TrainsOn, spaced
from zoft.tasks.template import MASK, Parts, fill, fill_parts, named_columns

__all__ = ["ChoiceTask"]


@dataclass(frozen=True)
class ChoiceTask:
    """A prompt and the options of each row, of which the likeliest is chosen.

    The options are either templates of their own (``("{choice1}", "{choice2}")``), and ``label_column`` says which is
    right; or a column holds a list of them, and either ``label_column`` holds the right one's place in it (from 0), or
    ``answers_column`` a list of those that are right.

    Args:
        template: The prompt, see `zoft.tasks.prompted.PromptedTask`.
        choices: Templates of the options, in the order of ``labels``.
        choices_column: In their place: the column with the list of a row's options.
        labels: The data's values of ``label_column`` in the order of ``choices``; default 0, 1, ...
        label_column: The column that says which option is right.
        answers_column: In its place: the column with the list of the right ones of a row's options.
        metric: The score by which results are told.
        trains_on: What the loss is.

    Raises:
        ConfigError: The arguments cannot be used; the message says why.
    """

    template: str
    choices: tuple[str, ...] = ()
    choices_column: str | None = None
    labels: tuple[str | int | bool, ...] | None = None
    label_column: str | None = "label"
    answers_column: str | None = None
    metric: str = "accuracy"
    trains_on: TrainsOn = "options"

    label_words = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", tuple(self.choices))  # YAML brings lists
        if self.labels is not None:
            object.__setattr__(self, "labels", tuple(self.labels))
        if bool(self.choices) == (self.choices_column is not None):
            raise ConfigError("give either choices (templates of the options) or choices_column")
        if self.choices and len(self.choices) < 2:
            raise ConfigError(f"choices needs at least two templates, got {list(self.choices)}")
        if (self.label_column is None) == (self.answers_column is None):
            raise ConfigError("give either label_column or answers_column: what says which option is right")
        if self.answers_column is not None and self.choices:
            raise ConfigError("answers_column goes with choices_column; with choices, give label_column")
        if self.labels is not None and len(self.labels) != len(self.choices):
            raise ConfigError(
                f"labels must name one value for each of the {len(self.choices)} choices, got {list(self.labels)}"
            )
        check_template(self.template, hidden=self.label_column)
        if MASK in self.template:
            raise ConfigError(f"a row's own options have several words, and {MASK} stands for one token")

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that the template names."""
        return named_columns(self.template)

    @property
    def columns(self) -> Columns:
        """What the task reads of a row."""
        named = (name for choice in self.choices for name in named_columns(choice, "choices"))
        lists = tuple(name for name in (self.choices_column, self.answers_column) if name is not None)
        text = tuple(dict.fromkeys((*self.text_columns, *named)))
        if not self.choices:  # the label is a place in a list, and lists differ in length: it is no class
            return _Listed(text=text, lists=lists, task=self)
        return _Written(text=text, label=self.label_column, labels=self._keys, task=self)

    def prompt_parts(self, row: Mapping[str, Any]) -> Parts:
        """Return the prompt in pieces."""
        return fill_parts(self.template, row)

    def options(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the row's options, with the space that the template calls for."""
        return spaced(self.template, self._options(row))

    def right(self, row: Mapping[str, Any]) -> tuple[int, ...]:
        """Return which options are right; of several answers the first comes first."""
        if self.answers_column is not None:
            options = self._options(row)
            return tuple(options.index(answer) for answer in row[self.answers_column] if answer in options)
        assert self.label_column is not None  # else there is an answers_column
        key = label_key(row[self.label_column])
        return (self._keys.index(key) if self.choices else int(key),)

    def _options(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        if self.choices_column is not None:
            return tuple(row[self.choices_column])
        return tuple(fill(choice, row) for choice in self.choices)

    @property
    def _keys(self) -> tuple[str, ...]:
        return tuple(map(label_key, range(len(self.choices)) if self.labels is None else self.labels))


@dataclass(frozen=True)
class _Written(Columns):
    """Columns of which templates make options."""

    task: ChoiceTask | None = None

    def check(self, row: Mapping[str, Any]) -> None:
        """See `Columns.check`."""
        super().check(row)
        assert self.task is not None
        _check_options(self.task.options(row), "choices make")


@dataclass(frozen=True)
class _Listed(Columns):
    """Columns of which one is a list of options that the label or the answers must be among."""

    task: ChoiceTask | None = None

    def check(self, row: Mapping[str, Any]) -> None:
        """See `Columns.check`."""
        super().check(row)
        assert self.task is not None
        options = row[str(self.task.choices_column)]
        _check_options(options, f"column {self.task.choices_column!r} holds")
        if self.task.answers_column is not None:
            if not self.task.right(row):
                raise DataError(
                    f"none of the answers {row[self.task.answers_column]!r:.80} is among the options {options!r:.120}"
                )
            return
        name = str(self.task.label_column)
        if name not in row:
            raise missing_label(name, row)
        if label_key(row[name]) not in map(str, range(len(options))):
            raise DataError(f"column {name!r} must hold a place in {len(options)} options, from 0; got {row[name]!r}")


def _check_options(options: Sequence[str], what_has_them: str) -> None:
    if any(not option.strip() for option in options):
        raise DataError(f"{what_has_them} an option without text: {list(options)!r:.120}")
    if len(set(options)) < len(options):
        raise DataError(f"{what_has_them} an option twice: {list(options)!r:.120}")
