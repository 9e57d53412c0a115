"""Choosing a row's class with a layer of the model's own, where no prompt says what the classes are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoft.errors import DataError, did_you_mean
from zoft.tasks.places import Row
from zoft.tasks.rows import Columns, label_key, names_of

__all__ = ["ClassTask", "find_labels", "in_order_of_model", "names_other_classes"]

_FEW = 10  # values that are classes, however few rows there are


@dataclass(frozen=True)
class ClassTask:
    """The classes of some rows.

    Attributes:
        columns: What is read of a row; its labels are in the order of the model's outputs.
        names: What the classes are called, in the same order.
        metric: The score by which results are told.
    """

    columns: Columns
    names: tuple[str, ...]
    metric: str = "accuracy"

    @property
    def label_words(self) -> tuple[str, ...]:
        """What each class is called."""
        return self.names

    def options(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the classes, which are the same for all rows."""
        return self.names

    def right(self, row: Mapping[str, Any]) -> tuple[int, ...]:
        """Return a row's class."""
        return (self.columns.labels.index(str(self.columns.class_of(row))),)


def find_labels(rows: Sequence[Row], column: str) -> tuple[str, ...]:
    """Return the labels that occur, as `zoft.tasks.rows.label_key` writes them, numbers in their order.

    Args:
        rows: The rows.
        column: The column with the labels.

    Raises:
        DataError: A row has no label that could name a class, or the values look like none.
    """
    found: dict[str, None] = {}
    for row in rows:
        if column not in row:
            raise DataError(
                f"{row.place}: there is no column {column!r}; found: {names_of(row)}.{did_you_mean(column, row)} "
                "label_column says which one holds the label"
            )
        value = row[column]
        if not isinstance(value, (str, int)) and not (isinstance(value, float) and value.is_integer()):
            raise DataError(
                f"{row.place}: column {column!r} must hold a class, a text or a whole number, got {value!r}"
            )
        found[label_key(value)] = None
    if len(found) < 2:
        raise DataError(f"column {column!r} holds one class alone, {', '.join(found)}, in {len(rows)} rows")
    if len(found) > max(_FEW, len(rows) // 2):
        raise DataError(
            f"column {column!r} holds {len(found)} different values in {len(rows)} rows, which are hardly classes; "
            "name another label_column, or say with 'labels' which there are"
        )
    return tuple(sorted(found, key=_order(found)))


def _order(labels: Mapping[str, Any]) -> Any:
    return int if all(label.lstrip("-").isdecimal() for label in labels) else str


def in_order_of_model(labels: Sequence[str], names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return labels in the order of a model's outputs, and what the classes are called there.

    A model that was trained on the same classes names them: then its order is taken. Labels that count the classes
    are the places of its outputs, and it knows better than they how these are called.

    Args:
        labels: The data's labels.
        names: What the model calls its outputs; what it made up itself (``LABEL_0``) does not count.
    """
    places = tuple(map(str, range(len(labels))))
    if not _are_telling(labels, names):
        return tuple(labels), tuple(labels)
    by_name = {label.casefold(): label for label in labels}
    if {name.casefold() for name in names} == by_name.keys():
        return tuple(by_name[name.casefold()] for name in names), tuple(names)
    return tuple(labels), tuple(names) if tuple(labels) == places else tuple(labels)


def names_other_classes(labels: Sequence[str], names: Sequence[str]) -> bool:
    """Return whether a model has an output for each label, but was trained on classes of other names.

    Args:
        labels: The data's labels.
        names: What the model calls its outputs.
    """
    return _are_telling(labels, names) and in_order_of_model(labels, names)[1] != tuple(names)


def _are_telling(labels: Sequence[str], names: Sequence[str]) -> bool:
    made_up = [f"LABEL_{place}" for place in range(len(names))]
    return len(names) == len(labels) and list(names) != made_up
