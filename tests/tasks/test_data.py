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

from zoft.errors import ConfigError, DataError
from zoft.tasks.data import load_splits, permute_labels
from zoft.tasks.rows import Columns, label_key

COLUMNS = Columns(text=("text",), label="label", labels=("0", "1"))


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def sorted_file(tmp_path: Path) -> str:
    """A hundred rows, sorted by label."""
    return write_jsonl(tmp_path / "rows.jsonl", [{"text": f"text {n}", "label": n // 50} for n in range(100)])


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


def test_evaluation_texts_are_left_out_of_training_and_kept_beside_their_twins(tmp_path: Path) -> None:
    train = [{"text": f"text {n}", "label": n % 2} for n in range(10)]
    train_file = write_jsonl(tmp_path / "train.jsonl", train)
    eval_file = write_jsonl(tmp_path / "eval.jsonl", [{"text": " TEXT   \uff13\n", "label": 1}])  # a wide digit
    splits = load_splits(COLUMNS, train_file=train_file, eval_file=eval_file)
    assert {row["text"] for row in splits.train} == {row["text"] for row in train} - {"text 3"}
    ((row, twin),) = splits.left_out["evaluation"]
    assert str(row.place) == f"{train_file}: line 4" and str(twin.place) == f"{eval_file}: line 1"
    same = load_splits(COLUMNS, train_file=train_file, eval_file=eval_file, drop_shared_texts=False)
    assert len(same.train) == 10 and same.left_out == {}


def test_prepared_rows_keep_their_places(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"review": f"text {n}", "stars": n % 2} for n in range(4)])

    def prepare(row: dict[str, Any]) -> dict[str, Any]:
        return {"text": row["review"], "label": row["stars"]}

    splits = load_splits(COLUMNS, train_file=file, prepare=prepare)
    rows = [*splits.train, *splits.evaluation]
    assert sorted((str(row.place), row["text"]) for row in rows) == [
        (f"{file}: line {n + 1}", f"text {n}") for n in range(4)
    ]
    controls = permute_labels(splits, "label", seed=0)
    assert [row.place for row in controls.train] == [row.place for row in splits.train]
    with pytest.raises(DataError, match="line 1: there is no column 'review'; found: 'text'"):
        load_splits(COLUMNS, train_file=write_jsonl(tmp_path / "other.jsonl", [{"text": "a"}] * 4), prepare=prepare)


def test_training_on_the_held_out_file_is_told_by_its_cause(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"text": f"text {n}", "label": n % 2} for n in range(10)])
    with pytest.raises(DataError, match="leaving out 10 that have the text of one of those"):
        load_splits(COLUMNS, train_file=file, eval_file=file)


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


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"txt": "a", "label": 0}, "line 2: there is no column 'text'; found: 'txt', 'label'. Did you mean 'txt'"),
        ({"text": "a", "label": 2}, "line 2: column 'label' holds 2, known labels are 0, 1"),
        ({"text": "a", "lable": 0}, "Did you mean 'lable'\\? label_column says which one holds the label"),
        ({"text": "a", "label": None}, "line 2: column 'label' holds no label, but None; fill the gap, or remove"),
        ({"text": "a", "label": " "}, "line 2: column 'label' holds no label, but ' '"),
        ({"text": "a", "label": float("nan")}, "line 2: column 'label' holds no label, but nan"),
        ({"text": float("nan"), "label": 0}, "line 2: column 'text' must hold text or a number, got nan"),
        ({"text": "a", "label": True}, "line 2: column 'label' holds True"),
        ({"text": None, "label": 0}, "line 2: column 'text' must hold text or a number, got NoneType"),
    ],
)
def test_unusable_row_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    train_file = write_jsonl(tmp_path / "rows.jsonl", [{"text": "a", "label": 0}, row])
    with pytest.raises(DataError, match=message):
        load_splits(COLUMNS, train_file=train_file)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda row: 1 / 0, r"line 1: prepare failed: ZeroDivisionError\('division by zero'\)"),
        (lambda row: [row], "line 1: prepare must return a row .* got "),
        (lambda row: {"text": row["nowhere"]}, "line 1: there is no column 'nowhere'; found: 'text', 'label'"),
        (lambda row: {"text": row["text"], "label": 7}, "line 1: column 'label' holds 7"),
    ],
)
def test_a_prepare_that_fails_is_told_with_the_row(tmp_path: Path, prepare: Any, message: str) -> None:
    train_file = write_jsonl(tmp_path / "rows.jsonl", [{"text": "a", "label": 0}, {"text": "b", "label": 1}])
    with pytest.raises(DataError, match=message):
        load_splits(COLUMNS, train_file=train_file, prepare=prepare)


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
