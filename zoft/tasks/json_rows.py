"""JSON: one object a line (.jsonl), or a list of objects (.json)."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

from zoft.errors import DataError
from zoft.tasks.places import Place, Row
from zoft.tasks.plain_text import read_text

__all__ = ["read_json", "read_jsonl"]

SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def read_jsonl(path: Path) -> list[Row]:
    """Return the rows of a file with one object a line; blank lines are skipped.

    Raises:
        DataError: A line is not JSON or no object, or the file is not UTF-8 text.
        OSError: The file cannot be read.
    """
    rows: list[Row] = []
    text = read_text(path)
    if text.lstrip()[:1] == "[":
        place = Place(str(path), "line", text[: text.index("[")].count("\n") + 1)
        raise DataError(
            f"{place}: expected an object of column names and values, got list; a file that is one list of "
            "objects must end in .json"
        )
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if line.strip():
            place = Place(str(path), "line", number)
            rows.append(_row(_parsed(line.rstrip("\n"), f"{place} is not JSON", one_a_line=True), place))
    return rows


def read_json(path: Path) -> list[Row]:
    """Return the rows of a file that is a list of objects.

    Raises:
        DataError: The file is not JSON, or no list of objects, or not UTF-8 text.
        OSError: The file cannot be read.
    """
    text = read_text(path)
    if not text.strip():
        return []
    loaded = _parsed(text, f"{path}: the file is not JSON", one_a_line=False)
    if not isinstance(loaded, list):
        raise DataError(f"{path}: expected a list of objects, got {type(loaded).__name__}")
    return [_row(value, Place(str(path), "row", number)) for number, value in enumerate(loaded, start=1)]


def _parsed(text: str, complaint: str, *, one_a_line: bool) -> object:
    try:
        loaded: object = json.loads(text, object_pairs_hook=_object)
        if SURROGATE_ESCAPE.search(text):
            json.dumps(loaded, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if one_a_line else f"line {error.lineno}, column {error.colno}"
        hint = "; a file with one JSON object a line must end in .jsonl" if error.msg == "Extra data" else ""
        raise DataError(f"{complaint}: {error.msg} ({where}){'' if one_a_line else hint}") from None
    except UnicodeEncodeError:
        raise DataError(f"{complaint}: half of a surrogate pair (\\ud800 to \\udfff) is no character") from None
    except RecursionError:
        raise DataError(f"{complaint} that can be read: it is nested too deeply") from None
    except ValueError as error:  # a repeated key, or a number of thousands of digits
        raise DataError(f"{complaint} that can be used: {error}") from None
    return loaded


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the key {twice!r} twice")
    return values


def _row(value: object, place: Place) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{place}: expected an object of column names and values, got {type(value).__name__}")
    return Row(value, place)
