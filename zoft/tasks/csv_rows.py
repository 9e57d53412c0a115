"""CSV and TSV: one header, fields that match it, quotes as RFC 4180 has them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zoft.errors import DataError
from zoft.tasks.places import Place, Row
from zoft.tasks.plain_text import read_text

__all__ = ["read_csv", "read_tsv"]

NAMES = {",": "a comma", "\t": "a tab"}
LONGEST_FIELD = 2**31 - 1  # what the csv module can count to everywhere; a text may be a whole book


def read_csv(path: Path, delimiter: str = ",") -> list[Row]:
    """Return the rows of a file with a header; a row's place is the line on which it begins.

    Raises:
        DataError: The file is not UTF-8 text, its header cannot be right, or a line does not fit it.
        OSError: The file cannot be read.
    """
    rows: list[Row] = []
    with _fields_of_any_length():
        records = _records(path, read_text(path), delimiter)
        _, header = next(records, (0, []))
        _check_header(path, header, delimiter)
        for line, fields in records:
            if len(fields) != len(header):
                hint = f"; put quotes around a text that contains {NAMES[delimiter]}" if fields[len(header) :] else ""
                count = f"{len(fields)} field{'s' if fields[1:] else ''}"
                raise DataError(f"{path}: line {line} has {count}, the header has {len(header)}{hint}")
            rows.append(Row(dict(zip(header, fields, strict=True)), Place(str(path), "line", line)))
    return rows


def read_tsv(path: Path) -> list[Row]:
    """Return the rows of a file whose fields are separated by tabs, as `read_csv` does."""
    return read_csv(path, delimiter="\t")


def _records(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each record that is not a blank line, with the line on which it begins."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    first = 1
    try:
        for fields in reader:
            if fields:
                yield first, fields
            first = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}: line {first}: {error}; a field that begins with a quote must end with one, and quotes inside it "
            "are written twice"
        ) from None


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    """Lift the csv module's limit of 131,072 characters, which is one for all readers of the process."""
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _check_header(path: Path, header: list[str], delimiter: str) -> None:
    twice = [name for index, name in enumerate(header) if name in header[:index]]
    if twice:
        raise DataError(f"{path}: the header names the column {twice[0]!r} twice; give each column a name of its own")
    if len(header) == 1 and any(other in header[0] for other in ",;\t|"):
        raise DataError(
            f"{path}: the header is one column, {header[0][:80]!r}; fields must be separated by {NAMES[delimiter]} "
            f"in a {path.suffix} file"
        )
