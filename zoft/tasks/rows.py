"""What a task reads of a row, and how a row is refused that does not hold it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoft.errors import DataError, did_you_mean

__all__ = ["Columns", "label_key", "missing_label", "names_of"]


def label_key(value: object) -> str:
    """Return the text by which two spellings of one label are recognised as the same.

    ``1``, ``1.0`` and ``"1"`` are one label, and so are ``True`` and ``"true"``; ``True`` and ``1`` are two.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value).strip()
    return text.lower() if text.lower() in ("true", "false") else text


def names_of(row: Mapping[str, Any]) -> str:
    """Return the names of a row's columns for a message; long ones, which are often a text in a header's place, cut."""
    return ", ".join(f"{name!r:.60}" for name in row)


def missing_label(name: str, row: Mapping[str, Any]) -> DataError:
    """Return the error that a row has no column with the label."""
    return DataError(
        f"there is no column {name!r}; found: {names_of(row)}.{did_you_mean(name, row)} label_column says which one "
        "holds the label"
    )


@dataclass(frozen=True)
class Columns:
    """What a task reads of a row.

    Attributes:
        text: Columns that hold a text or a number each.
        label: The column that holds the label, if there is one.
        labels: The labels that may occur there, as `label_key` writes them, in the order of the label words.
        lists: Columns that hold a list of at least one text each.
    """

    text: tuple[str, ...]
    label: str | None = None
    labels: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()

    def check(self, row: Mapping[str, Any]) -> None:
        """Refuse a row that does not hold what is read of it.

        Raises:
            DataError: The message says what is wrong, and leaves it to the caller to say with which row.
        """
        for name in (*self.text, *self.lists):
            if name not in row:
                raise DataError(f"there is no column {name!r}; found: {names_of(row)}.{did_you_mean(name, row)}")
        if self.label is not None and self.label not in row:
            raise missing_label(self.label, row)
        for name in self.text:
            value = row[name]
            if not isinstance(value, (str, int, float)):
                raise DataError(f"column {name!r} must hold text or a number, got {type(value).__name__}")
            if isinstance(value, float) and not math.isfinite(value):  # what pandas writes where there is nothing
                raise DataError(f"column {name!r} must hold text or a number, got {value}")
        for name in self.lists:
            value = row[name]
            if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
                raise DataError(f"column {name!r} must hold a list of at least one text, got {value!r:.80}")
            if not value[0].strip():  # of accepted answers, that is the one that is trained on
                raise DataError(f"column {name!r} begins with a text that is empty: {value!r:.80}")
        if self.label is not None and _is_gap(row[self.label]) and label_key(row[self.label]) not in self.labels:
            raise DataError(
                f"column {self.label!r} holds no label, but {row[self.label]!r}; fill the gap, or remove the row"
            )
        if self.label is not None and label_key(row[self.label]) not in self.labels:
            raise DataError(
                f"column {self.label!r} holds {row[self.label]!r:.80}, known labels are {', '.join(self.labels)}. "
                "Set 'labels' to the data's values, in the order of label_words where there are such"
            )

    def class_of(self, row: Mapping[str, Any]) -> str | None:
        """Return a row's label as `label_key` writes it; None where a task has no classes."""
        return None if self.label is None else label_key(row[self.label])


def _is_gap(value: object) -> bool:
    """Whether a file has nothing there."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or not str(value).strip()
