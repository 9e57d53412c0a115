"""Broken data end ``zoft-train`` with one line that says where; doubtful data are told of, and refused on request."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from zoft.cli.config import parse_arguments
from zoft.cli.families import prompted
from zoft.cli.train import _say_what_is_trained_on, main
from zoft.errors import ZoftWarning

GOOD = [{"text": f"the film is {word}", "label": index % 2} for index, word in enumerate("abcdefghijklmnopqrst")]


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def with_row(row: Any) -> bytes:
    """Good rows with this one in the third place."""
    return jsonl([*GOOD[:2], row, *GOOD[2:]])


def csv_of(lines: str) -> bytes:
    return ("text,label\n" + lines).encode()


BROKEN = [
    ("missing.jsonl", None, "there is no such file"),
    ("folder.csv", "folder", "this is a folder"),
    ("empty.jsonl", b"", "the file has no rows"),
    ("header.csv", csv_of(""), "the file has no rows"),
    ("rows.txt", jsonl(GOOD), "expected a file ending in .jsonl, .json, .csv, .tsv, .parquet, got '.txt'"),
    ("broken.jsonl", jsonl(GOOD[:2]) + b'{"text": "cut', "line 3 is not JSON: Unterminated string"),
    ("list.jsonl", with_row(["text", 1]), "line 3: expected an object of column names and values, got list"),
    ("missing_column.jsonl", with_row({"texts": "a", "label": 1}), "line 3: there is no column 'text'; found: 'texts'"),
    ("missing_column.csv", b"review,label\na,1\n", "line 2: there is no column 'text'; found: 'review', 'label'"),
    (
        "unknown.jsonl",
        with_row({"text": "a", "label": "pos"}),
        "line 3: column 'label' holds 'pos', known labels are 0, 1",
    ),
    ("ragged.csv", csv_of("a,1\n\nb\n"), "line 4 has 1 field, the header has 2"),
    ("latin.csv", "text,label\ncafé,1\n".encode("latin-1"), "line 2 is not UTF-8 text (byte 0xe9)"),
    ("utf16.csv", "text,label\na,1\n".encode("utf-16"), "this is UTF-16 text"),
    ("nul.csv", csv_of("a,1\nb\0,0\n"), "line 3 holds a NUL byte"),
    ("zipped.csv", gzip.compress(csv_of("a,1\n")), "this is compressed with gzip"),
    ("text.parquet", csv_of("a,1\n"), "is not a Parquet file that can be read"),
    (
        "null.jsonl",
        with_row({"text": None, "label": 1}),
        "line 3: column 'text' must hold text or a number, got NoneType",
    ),
    (
        "nested.jsonl",
        with_row({"text": {"en": "a"}, "label": 1}),
        "line 3: column 'text' must hold text or a number, got dict",
    ),
    ("nested_label.jsonl", with_row({"text": "a", "label": [1]}), "line 3: column 'label' holds [1]"),
    ("null_label.jsonl", with_row({"text": "a", "label": None}), "line 3: column 'label' holds no label, but None"),
    ("twice.csv", b"text,label,text\na,1,b\n", "the header names the column 'text' twice"),
    ("semicolons.csv", b"text;label\na;1\n", "the header is one column, 'text;label'"),
    ("quote.csv", csv_of('a,1\n"b,0\nc,1\n'), "line 3: unexpected end of data"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN, ids=[name for name, *_ in BROKEN])
def test_a_broken_file_ends_the_command_with_one_line(
    name: str, content: Any, message: str, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    code, said = refused(capsys, recipe, tmp_path, "--dataset", str(path))
    assert code == 2 and said.startswith(f"zoft-train: error: {path}") and message in said
    assert said.count("\n") == 1, "one line, and no model was loaded for it"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("windows.csv", b"\xef\xbb\xbf" + csv_of('"he said, ""go""",1\n' + "a,0\nb,1\n").replace(b"\n", b"\r\n")),
        ("floats.jsonl", with_row({"text": "a", "label": 1.0})),
        ("texts.jsonl", with_row({"text": "a", "label": "1"})),
        ("numbers.jsonl", with_row({"text": 7, "label": 1})),
        ("long.csv", csv_of(f"{'word ' * 30_000},1\na,0\nb,1\n")),
    ],
)
def test_a_file_that_only_looks_odd_is_read(name: str, content: bytes, recipe: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    problem = built(recipe, "--dataset", str(tmp_path / name), "--max_length", "64")
    assert problem.data is not None and not problem.data.of("grave")


def test_a_run_tells_and_writes_what_its_rows_are_like(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--config", recipe, "--output_dir", str(tmp_path / "run"), "--max_steps", "1"])
    said = capsys.readouterr().out
    assert "  training  0: " in said and "tokens: " in said and "data.json" in said
    written = json.loads((tmp_path / "run" / "data.json").read_text())
    assert [(split["name"], split["rows"]) for split in written["splits"]] == [("train", 48), ("evaluation", 12)]


def test_leaking_rows_are_told_once_and_refused_on_request(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    near = "the film that we saw last night at the old town hall was very long and not so good"
    (tmp_path / "train.jsonl").write_bytes(jsonl([*GOOD, {"text": near, "label": 0}, {"text": "", "label": 1}]))
    (tmp_path / "eval.jsonl").write_bytes(
        jsonl([{"text": "THE film is  c", "label": 0}, {"text": near + " indeed", "label": 0}])
    )
    flags = ["--dataset", str(tmp_path / "train.jsonl"), "--eval_file", str(tmp_path / "eval.jsonl")]
    with pytest.warns(ZoftWarning, match="the data: ") as caught:
        main(["--config", recipe, "--output_dir", str(tmp_path / "kept"), "--max_steps", "1", *flags])
    assert sum("the data: " in str(warning.message) for warning in caught) == 1
    findings = json.loads((tmp_path / "kept" / "data.json").read_text())["findings"]
    named = {
        finding["kind"]: [[place["number"] for place in rows] for rows in finding["rows"]]
        for finding in findings
        if finding["severity"] == "grave"
    }
    assert named == {"leak": [[3, 1]], "near-leak": [[21, 2]], "empty": [[22]]}

    code, said = refused(capsys, recipe, tmp_path, "--strict_data", *flags)
    error = said.splitlines()[-1]
    assert code == 2 and error.startswith(
        "zoft-train: error: strict_data: 1 training row repeats a held-out row (left out"
    )
    assert "1 training row nearly repeats a held-out row" in error and "1 training row has no text" in error
    assert not (tmp_path / "run").exists()


def test_one_class_alone_is_told(recipe: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(jsonl([{**row, "label": 1} for row in GOOD]))
    report = built(recipe, "--dataset", str(tmp_path / "rows.jsonl")).data
    assert report is not None
    assert [finding.kind for finding in report.of("warning")] == ["constant-label", "constant-label", "untrained-label"]


@pytest.fixture
def private(tmp_path: Path) -> list[str]:
    """A private run's flags. Its rows repeat and contradict each other and are empty, of which warnings are errors."""
    (tmp_path / "rows.jsonl").write_bytes(jsonl([*GOOD, *({"text": "", "label": index % 2} for index in range(20))]))
    return ["--dataset", str(tmp_path / "rows.jsonl"), "--dp_noise_multiplier", "1", "--dp_target_delta", "1e-3"]


@pytest.mark.parametrize("public", [[], ["--dp_eval_is_public"]], ids=["all private", "public held-out rows"])
def test_private_rows_are_not_inspected(
    public: list[str], private: list[str], recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = built(recipe, *private, *public)
    assert problem.data is None
    capsys.readouterr()
    _say_what_is_trained_on(problem, parse_arguments(["--config", recipe, *private, *public]))
    counts = f"{len(problem.train)} training rows, {len(problem.evaluation)} held-out rows"
    assert capsys.readouterr() == (f"{counts}; private rows are not inspected\n", "")


def test_strict_data_is_refused_for_private_rows(
    private: list[str], recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = refused(capsys, recipe, tmp_path, *private, "--strict_data")
    assert code == 2 and "strict_data tells what the rows are like" in said


@pytest.mark.slow
def test_a_private_run_writes_nothing_about_its_rows(
    private: list[str], recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--config", recipe, "--output_dir", str(tmp_path / "run"), "--max_steps", "1", *private])
    assert not (tmp_path / "run" / "data.json").exists() and "data.json" not in capsys.readouterr().out


def test_a_control_run_is_inspected_with_its_true_labels(recipe: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(jsonl(GOOD * 2))
    plain = built(recipe, "--dataset", str(tmp_path / "rows.jsonl")).data
    assert plain == built(recipe, "--dataset", str(tmp_path / "rows.jsonl"), "--shuffle_labels").data
    assert "conflict" not in {finding.kind for finding in plain.findings}


def refused(capsys: pytest.CaptureFixture[str], recipe: str, folder: Path, *flags: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main(["--config", recipe, "--output_dir", str(folder / "run"), *flags])
    return int(caught.value.code or 0), capsys.readouterr().err


def built(recipe: str, *flags: str) -> Any:
    """The problem of a recipe; nothing is trained."""
    parsed = parse_arguments(["--config", recipe, *flags])
    rows = prompted.read(parsed)
    return prompted.build(parsed, rows, *prompted.load(parsed))
