"""Rows: read from every format, checked, split without leaks, and decided by the seed alone."""

from __future__ import annotations

import json
import random
import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from zoft.errors import ConfigError, DataError, ZoftWarning
from zoft.tasks.data import load_splits, permute_labels
from zoft.tasks.files import load_rows
from zoft.tasks.rows import Columns, label_key

COLUMNS = Columns(text=("text",), label="label", labels=("0", "1"))


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def sorted_file(tmp_path: Path) -> str:
    """A hundred rows, sorted by label."""
    return write_jsonl(tmp_path / "rows.jsonl", [{"text": f"text {n}", "label": n // 50} for n in range(100)])


def test_every_file_format_gives_the_same_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    rows = [{"text": 'a "quoted", text\nin two lines', "label": "1"}, {"text": "großartig", "label": "0"}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    quoted = 'text{0}label\n"a ""quoted"", text\nin two lines"{0}1\ngroßartig{0}0\n'
    (tmp_path / "a.csv").write_text("\ufeff" + quoted.format(","), encoding="utf-8")  # as spreadsheets save it
    (tmp_path / "a.tsv").write_text(quoted.format("\t"), encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    for suffix in ("jsonl", "json", "csv", "tsv", "parquet"):
        assert load_rows(str(tmp_path / f"a.{suffix}")) == rows, suffix


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        ("a.jsonl", "[1]\n", "line 1: expected an object .* got list"),
        ("a.jsonl", "\n", "no rows"),
        ("a.json", '{"text": "a"}', "expected a list of objects, got dict"),
        ("a.json", '{"text": "a"}\n{"text": "b"}\n', "must end in .jsonl"),
        ("a.json", "", "no rows"),
        ("a.csv", "text,label\na,1\nb\n", "line 3 does not have the header's 2 fields"),
        ("a.csv", "text,label\na,1,2\n", "line 2 does not have the header's 2 fields"),
        ("a.csv", "text,label\n", "no rows"),
        ("a.parquet", "text", "not a Parquet file"),
        ("a.jsnl", "", "Did you mean '.jsonl'"),
    ],
)
def test_damaged_file_is_named_with_its_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_rows(str(path))


def test_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        load_rows(str(tmp_path / "missing.csv"))
    (tmp_path / "a.csv").write_bytes(b"text,label\n\xff\xfe,1\n")
    with pytest.raises(DataError, match="not UTF-8"):
        load_rows(str(tmp_path / "a.csv"))


def test_a_sorted_file_is_shuffled_before_splitting(sorted_file: str) -> None:
    splits = load_splits(COLUMNS, train_file=sorted_file, eval_fraction=0.4)
    assert (len(splits.train), len(splits.evaluation)) == (60, 40)
    for part in (splits.train, splits.evaluation):
        assert min(Counter(row["label"] for row in part).values()) > 0.3 * len(part)


def test_split_depends_on_the_seed_alone(sorted_file: str) -> None:
    random.seed(1)
    before = random.getstate()
    first = load_splits(COLUMNS, train_file=sorted_file, seed=7)
    assert random.getstate() == before
    random.seed(2)
    assert load_splits(COLUMNS, train_file=sorted_file, seed=7) == first
    assert load_splits(COLUMNS, train_file=sorted_file, seed=8) != first


def test_sample_limits_keep_the_evaluation_rows_as_they_are(sorted_file: str) -> None:
    full = load_splits(COLUMNS, train_file=sorted_file)
    small = load_splits(COLUMNS, train_file=sorted_file, max_train_samples=5, max_eval_samples=3)
    assert small.train == full.train[:5]
    assert small.evaluation == full.evaluation[:3]


def test_evaluation_texts_are_dropped_from_training_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = [{"text": f"text {n}", "label": n % 2} for n in range(10)]
    train_file = write_jsonl(tmp_path / "train.jsonl", train)
    eval_file = write_jsonl(tmp_path / "eval.jsonl", [{"text": " TEXT   3\n", "label": 1}])
    splits = load_splits(COLUMNS, train_file=train_file, eval_file=eval_file)
    assert {row["text"] for row in splits.train} == {row["text"] for row in train} - {"text 3"}
    assert "dropped 1 training rows" in capsys.readouterr().err


def test_repeated_texts_never_cross_the_split(tmp_path: Path) -> None:
    rows = [{"text": f"text {n % 10}", "label": n % 2} for n in range(60)]
    splits = load_splits(COLUMNS, train_file=write_jsonl(tmp_path / "rows.jsonl", rows))
    held_out = {row["text"] for row in splits.evaluation}
    assert held_out.isdisjoint(row["text"] for row in splits.train)


def test_permuted_labels_keep_texts_and_frequencies_and_nothing_that_joins_them(sorted_file: str) -> None:
    plain = load_splits(COLUMNS, train_file=sorted_file, eval_fraction=0.5)
    control = permute_labels(plain, "label", seed=0)
    assert permute_labels(plain, "label", seed=0) == control != permute_labels(plain, "label", seed=1)
    for rows, permuted in ((plain.train, control.train), (plain.evaluation, control.evaluation)):
        assert [row["text"] for row in rows] == [row["text"] for row in permuted]
        assert Counter(row["label"] for row in rows) == Counter(row["label"] for row in permuted)
        agreement = sum(a["label"] == b["label"] for a, b in zip(rows, permuted, strict=True)) / len(rows)
        assert 0.3 < agreement < 0.7


def test_class_without_training_rows_warns(tmp_path: Path) -> None:
    train_file = write_jsonl(tmp_path / "rows.jsonl", [{"text": f"text {n}", "label": 0} for n in range(9)])
    with pytest.warns(ZoftWarning, match="no training row has the label 1"):
        load_splits(COLUMNS, train_file=train_file)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"txt": "a", "label": 0}, "row 2: there is no column 'text'; found: 'txt', 'label'. Did you mean 'txt'"),
        ({"text": "a", "label": 2}, "row 2: column 'label' holds 2, known labels are 0, 1"),
        ({"text": "a", "label": True}, "row 2: column 'label' holds True"),
        ({"text": None, "label": 0}, "row 2: column 'text' must hold text or a number, got NoneType"),
    ],
)
def test_unusable_row_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    train_file = write_jsonl(tmp_path / "rows.jsonl", [{"text": "a", "label": 0}, row])
    with pytest.raises(DataError, match=message):
        load_splits(COLUMNS, train_file=train_file)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either dataset or train_file"),
        ({"dataset": "a.csv", "train_file": "b.csv"}, "either dataset or train_file"),
        ({"dataset": "a.csv", "eval_fraction": 1.0}, "between 0 and 1"),
        ({"dataset": "a.csv", "max_train_samples": 0}, "at least 1"),
    ],
)
def test_contradicting_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_splits(COLUMNS, **arguments)


def test_label_spellings_meet_in_one_key() -> None:
    assert label_key(1) == label_key("1") == label_key(1.0) == "1"
    assert label_key(True) == label_key("True") == label_key("true") == "true"
    assert label_key(True) != label_key(1)
    assert label_key(" neg ") == "neg"


class FakeSplit(list[dict[str, Any]]):
    def to_list(self) -> list[dict[str, Any]]:
        return list(self)


def fake_hub(monkeypatch: pytest.MonkeyPatch, load_dataset: Any) -> None:
    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_hub_data_set_is_evaluated_on_its_validation_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def load_dataset(name: str, config_name: str | None) -> dict[str, FakeSplit]:
        asked.append((name, config_name))
        return {
            "train": FakeSplit({"text": f"a {n}", "label": n % 2} for n in range(8)),
            "test": FakeSplit([{"text": "hidden", "label": -1}]),
            "validation": FakeSplit([{"text": "b", "label": 1}]),
        }

    fake_hub(monkeypatch, load_dataset)
    splits = load_splits(COLUMNS, dataset="some/reviews", dataset_config_name="short")
    assert asked == [("some/reviews", "short")]
    assert len(splits.train) == 8
    assert splits.evaluation == [{"text": "b", "label": 1}]


def test_unreachable_hub_names_the_packaged_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, config_name: str | None) -> Any:
        raise ConnectionError("offline")

    fake_hub(monkeypatch, load_dataset)
    with pytest.raises(DataError, match="packaged:rotten-tomatoes"):
        load_splits(COLUMNS, dataset="some/reviews")
