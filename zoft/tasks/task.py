"""What all prompted tasks have in common: a prompt, and the texts that may follow it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from zoft.tasks.rows import Columns
from zoft.tasks.template import MASK, Parts

__all__ = ["ModelKind", "Task", "TrainsOn", "spaced"]

ModelKind = Literal["causal", "masked", "seq2seq"]
"""A decoder, a masked language model, or an encoder with a decoder."""

TrainsOn = Literal["options", "answer"]
"""What the loss is: the cross-entropy over a row's options, or that of the right option's tokens alone."""


class Task(Protocol):
    """A row's prompt, and its possible continuations, one of which at least is right."""

    @property
    def template(self) -> str:
        """The prompt, with column names in braces."""

    @property
    def metric(self) -> str:
        """The score by which results are told; a name of `zoft.evaluation.metrics`."""

    @property
    def trains_on(self) -> TrainsOn:
        """What the loss is."""

    @property
    def columns(self) -> Columns:
        """What is read of a row."""

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that the template names: the row's own text."""

    @property
    def label_words(self) -> tuple[str, ...] | None:
        """What each class is called, if all rows have the same options."""

    def prompt_parts(self, row: Mapping[str, Any]) -> Parts:
        """Return the prompt in pieces."""

    def options(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return what may follow the prompt, with the space that comes between."""

    def right(self, row: Mapping[str, Any]) -> tuple[int, ...]:
        """Return which options are right; the first is the one that is trained on."""


def spaced(template: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """Put a space before each word, unless the template ends in whitespace where it is to stand.

    A word in mid-sentence is tokenised with its space. In a masked model's template ``[MASK]`` follows whitespace
    already, and the word is tokenised with that.
    """
    before, mask, _ = template.partition(MASK)
    needs_space = before[-1:].isspace() if mask else not before[-1:].isspace()
    return tuple((" " if needs_space else "") + word.strip() for word in words)
