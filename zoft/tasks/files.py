"""Reading rows: packaged data sets, local files, the Hub. Nothing here knows about prompts or splits."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoft.errors import DataError, did_you_mean
from zoft.tasks.assets import is_packaged, load_packaged_dataset

__all__ = ["Row", "is_local_file", "load_hub", "load_rows"]

Row = dict[str, Any]

EVAL_SPLITS = ("validation", "test")  # in this order: a test split's labels are often withheld


def load_rows(source: str) -> list[Row]:
    """Return all rows of a packaged data set or of one local file.

    Args:
        source: ``packaged:NAME``, or a path ending in .jsonl, .json, .csv, .tsv or .parquet.

    Raises:
        AssetError: The packaged data set is unknown, missing or altered.
        DataError: The file does not exist, is of no known type, is damaged (the line is named), or has no
            rows.
    """
    if is_packaged(source):
        return load_packaged_dataset(source)
    path = Path(source).expanduser()
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{source}: expected a file ending in {', '.join(_READERS)}, got {path.suffix or 'no suffix'!r}."
            f"{did_you_mean(path.suffix.lower(), _READERS)}"
        )
    if not path.is_file():
        raise DataError(f"{source}: there is no such file (looked in {Path.cwd()})")
    try:
        rows = reader(path)
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: the file is not UTF-8 text ({error.reason} at byte {error.start})") from None
    if not rows:
        raise DataError(f"{source}: the file has no rows")
    return rows


def is_local_file(source: str) -> bool:
    """Whether ``source`` names a local file (by its suffix) rather than a data set on the Hub."""
    path = Path(source).expanduser()
    return path.suffix.lower() in _READERS or path.exists()


def load_hub(
    name: str, config_name: str | None = None, eval_split: str | None = None
) -> tuple[list[Row], list[Row] | None]:
    """Return the training rows of a data set on the Hub, and its evaluation rows if it has a split for them.

    Args:
        name: The data set.
        config_name: Its configuration.
        eval_split: The split with the evaluation rows; default: ``validation``, else ``test``.

    Raises:
        DataError: The data set cannot be loaded, or has no such split, or none called ``train``.
    """
    import datasets  # a slow import that local files do not need

    try:
        loaded = datasets.load_dataset(name, config_name)
    except (OSError, ValueError) as error:  # not found, no network, an unknown config name
        raise DataError(
            f"the data set {name!r} could not be loaded from the Hub: {error}\n"
            "Without network, name a local file (.jsonl, .csv, .parquet ...) or packaged:rotten-tomatoes"
        ) from error
    for split in ("train", *([] if eval_split is None else [eval_split])):
        if split not in loaded:
            raise DataError(f"the data set {name!r} has no split {split!r}; found: {', '.join(map(str, loaded))}")
    held_out = eval_split or next((split for split in EVAL_SPLITS if split in loaded), None)
    return loaded["train"].to_list(), loaded[held_out].to_list() if held_out else None


def _read_jsonl(path: Path) -> list[Row]:
    rows: list[Row] = []
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}: line {number} is not JSON: {error.msg} (column {error.colno})") from None
            rows.append(_checked(row, f"{path}: line {number}"))
    return rows


def _read_json(path: Path) -> list[Row]:
    text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        return []
    try:
        loaded = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            hint = "; a file with one JSON object a line must end in .jsonl"
        else:
            hint = ""
        raise DataError(f"{path}: line {error.lineno} is not JSON: {error.msg}{hint}") from None
    if not isinstance(loaded, list):
        raise DataError(f"{path}: expected a list of objects, got {type(loaded).__name__}")
    return [_checked(row, f"{path}: row {number}") for number, row in enumerate(loaded, start=1)]


def _read_csv(path: Path, delimiter: str = ",") -> list[Row]:
    rows: list[Row] = []
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                columns = reader.fieldnames or ()
                if None in row or None in row.values():
                    raise DataError(f"{path}: line {reader.line_num} does not have the header's {len(columns)} fields")
                rows.append(dict(row))
        except csv.Error as error:
            raise DataError(f"{path}: line {reader.line_num}: {error}") from None
    return rows


def _read_tsv(path: Path) -> list[Row]:
    return _read_csv(path, delimiter="\t")


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is not a Parquet file: {error}") from None
    return rows


def _checked(row: object, where: str) -> Row:
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object of column names and values, got {type(row).__name__}")
    return row


_READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}
