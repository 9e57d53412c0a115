"""Rows of a test, as a file would bring them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from zoft.tasks.places import Place, Row


def placed(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Give each row a place."""
    return [Row(row, Place("rows", "row", number)) for number, row in enumerate(rows, start=1)]
