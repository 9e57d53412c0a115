"""Rows that know where they come from, so that a message can name the line to mend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Place", "Row"]


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a row stands; places sort by source, then number.

    Attributes:
        source: The file, packaged data set or Hub split, as the user named it.
        unit: ``line`` in files whose rows are lines, else ``row``.
        number: Counted from 1. Of a row that takes several lines, the first.
    """

    source: str
    unit: Literal["line", "row"]
    number: int

    def __str__(self) -> str:
        return f"{self.source}: {self.unit} {self.number}"


class Row(dict[str, Any]):
    """A row's columns; a plain dictionary, but for its place, which is no column."""

    __slots__ = ("place",)

    def __init__(self, values: Mapping[str, Any], place: Place) -> None:
        super().__init__(values)
        self.place = place
