"""Files: every format gives the same rows, with the lines they stand on; what is broken is named, with its line."""

from __future__ import annotations

import csv
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from zoft.errors import DataError
from zoft.tasks.files import load_rows

ROWS = [{"text": 'a "quoted", text\nin two lines', "label": "1"}, {"text": "großartig", "label": "0"}]
CSV = 'text{0}label\n"a ""quoted"", text\nin two lines"{0}1\ngroßartig{0}0\n'


def write_parquet(path: Path, columns: list[list[Any]], names: list[str]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(column) for column in columns], names=names), path)


def test_every_file_format_gives_the_same_rows_and_their_places(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in ROWS), encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps(ROWS), encoding="utf-8")
    (tmp_path / "a.csv").write_text(CSV.format(","), encoding="utf-8")
    (tmp_path / "a.tsv").write_text(CSV.format("\t"), encoding="utf-8")
    write_parquet(tmp_path / "a.parquet", [[row[name] for row in ROWS] for name in ROWS[0]], list(ROWS[0]))
    places = {"jsonl": "line 1, line 3", "csv": "line 2, line 4", "tsv": "line 2, line 4"}
    for suffix in ("jsonl", "json", "csv", "tsv", "parquet"):
        path = tmp_path / f"a.{suffix}"
        rows = load_rows(str(path))
        assert rows == ROWS, suffix
        wanted = places.get(suffix, "row 1, row 2").split(", ")
        assert [str(row.place) for row in rows] == [f"{path}: {place}" for place in wanted]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": 'he said, "go"', "label": "1"}, {"text": "two", "label": "0"}]
    content = {
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "json": json.dumps(rows, indent=1),
        "csv": 'text,label\n"he said, ""go""",1\n\ntwo,0\n',
    }[suffix]
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode())
    assert load_rows(str(path)) == rows


def test_a_line_of_json_may_hold_other_line_separators(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one\u2028two\x85three"}\n', encoding="utf-8")
    assert load_rows(str(tmp_path / "a.jsonl")) == [{"text": "one\u2028two\x85three"}]


def test_a_field_may_be_as_long_as_a_book(tmp_path: Path) -> None:
    text = "word " * 100_000
    (tmp_path / "a.csv").write_text(f'text,label\n"{text}",1\n', encoding="utf-8")
    default = csv.field_size_limit(1000)
    try:
        assert load_rows(str(tmp_path / "a.csv")) == [{"text": text, "label": "1"}]
    finally:
        after = csv.field_size_limit(default)
    assert after == 1000, "other readers of the process keep their limit"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": \n', r"line 2 is not JSON: .* \(column 10\)"),
        ("a.jsonl", "[1]\n", "line 1: expected an object .* got list"),
        ("a.jsonl", '\n[\n {"text": "a"}\n]\n', "line 2: expected an object .* got list; .* must end in .json$"),
        ("a.jsonl", "\n", "no rows"),
        ("a.jsonl", '{"a": 1}\n{"text": "a", "text": "b"}\n', "line 2 .*: an object has the key 'text' twice"),
        ("a.jsonl", '{"a": 1}\n{"text": "\\ud83d"}\n', "line 2 .* half of a surrogate pair"),
        ("a.jsonl", '{"a": ' + "[" * 100_000, "line 1 .* nested too deeply"),
        ("a.jsonl", '{"a": ' + "1" * 10_000 + "}", "line 1 .* limit"),
        ("a.json", '{"text": "a"}', "expected a list of objects, got dict"),
        ("a.json", '[{"text": "a"},\n 7]', "row 2: expected an object .* got int"),
        ("a.json", '[{"text": "a"},\n {"text": "b"', r"the file is not JSON: .* \(line 2, column 14\)"),
        ("a.json", '{"text": "a"}\n{"text": "b"}\n', "must end in .jsonl"),
        ("a.json", "", "no rows"),
        ("a.csv", "", "no rows"),
        ("a.csv", "text,label\n", "no rows"),
        ("a.csv", "text,label\na,1\nb\n", "line 3 has 1 field, the header has 2$"),
        ("a.csv", "text,label\n\na,1,2\n", "line 3 has 3 fields, the header has 2; put quotes .* comma"),
        ("a.csv", 'text,label\na,1\n"b,1\nc,0\n', "line 3: unexpected end of data; a field that begins with a quote"),
        ("a.csv", 'text,label\n"a\nb" c,1\n', "line 2: .* expected after"),
        ("a.csv", "text,label,text\na,1,b\n", "names the column 'text' twice"),
        ("a.csv", "text;label\na;1\n", "the header is one column, 'text;label'; .* separated by a comma"),
        ("a.tsv", "text,label\na,1\n", "the header is one column, 'text,label'; .* separated by a tab"),
        ("a.parquet", "text", "not a Parquet file"),
        ("a.jsnl", "", "Did you mean '.jsonl'"),
        ("a", "", "got 'no suffix'"),
        ("a.jsonl.gz", "", "got '.gz'. Unpack it first"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    assert_refused(path, message)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label\na,1\ncafé,0\n".encode("latin-1"), r"line 3 is not UTF-8 text \(byte 0xe9\).* iconv"),
        ("a.jsonl", b"\xef\xbb\xbf" + '\n{"text": "café"}'.encode("latin-1"), "line 2 is not UTF-8"),
        ("a.csv", "text,label\na,1\n".encode("utf-16"), "this is UTF-16"),
        ("a.csv", "text,label\na,1\n".encode("utf-32"), r"this is UTF-32 .*\(iconv -f UTF-32"),
        ("a.parquet", gzip.compress(b"PAR1", mtime=0), "gzip; unpack it"),
        ("a.csv", b"text,label\na,1\nb\0,0\n", "line 3 holds a NUL byte"),
        ("a.csv", gzip.compress(b"text,label\na,1\n", mtime=0), "gzip; unpack it"),
        ("a.csv", b"PK\x03\x04 and so on", "zip archive or a spreadsheet"),
        ("a.jsonl", b"PAR1 and so on", "must end|end in .parquet"),
    ],
)
def test_what_is_no_text_is_called_by_its_name(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert_refused(path, message)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "missing.csv", "there is no such file")
    assert_refused(tmp_path, "this is a folder")
    (tmp_path / "a.csv").mkdir()
    assert_refused(tmp_path / "a.csv", "this is a folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_must_not_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.touch(mode=0o000)
    assert_refused(path, "cannot be read: Permission denied")


def test_a_damaged_or_ambiguous_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, [["a"], ["b"]], ["text", "text"])
    assert_refused(path, "Multiple matches for .*text")
    content = path.read_bytes()
    path.write_bytes(content[:20] + content[40:])
    assert_refused(path, "not a Parquet file that can be read")


def assert_refused(path: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_rows(str(path))
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
