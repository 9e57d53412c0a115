"""Development rows and few shots: how many there are, of which classes, and that no text is on both sides."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from zoft.errors import ConfigError, DataError
from zoft.tasks.data import Splits, load_splits
from zoft.tasks.prompted import PromptedTask
from zoft.tasks.rows import Columns

COLUMNS = PromptedTask("{text} It was", ("terrible", "great")).columns


@pytest.fixture
def file(tmp_path: Path) -> str:
    """60 rows of each class, and each of the first ten texts once more in capitals."""
    rows = [{"text": f"film {number}", "label": number % 2} for number in range(120)]
    rows += [{"text": f"FILM {number}", "label": number % 2} for number in range(10)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def texts(rows: list[dict[str, Any]]) -> set[str]:
    return {row["text"].casefold() for row in rows}


def disjoint(splits: Splits) -> bool:
    train, dev, evaluation = texts(splits.train), texts(splits.dev), texts(splits.evaluation)
    return not (train & dev or train & evaluation or dev & evaluation)


def test_development_rows_are_taken_from_the_training_rows(file: str) -> None:
    splits = load_splits(COLUMNS, dataset=file, max_train_samples=50, max_dev_samples=20, max_eval_samples=9)
    assert (len(splits.train), len(splits.dev), len(splits.evaluation)) == (50, 20, 9)
    assert disjoint(splits)
    rest = load_splits(COLUMNS, dataset=file, max_dev_samples=20)
    assert rest.dev == splits.dev and rest.train[:50] == splits.train, "sizes decide how many, not which"
    assert not load_splits(COLUMNS, dataset=file).dev


@pytest.mark.parametrize("shots", [1, 16, 24])
def test_few_shots_are_as_many_of_each_class_on_either_side(file: str, shots: int) -> None:
    splits = load_splits(COLUMNS, dataset=file, num_shots=shots)
    for rows in (splits.train, splits.dev):
        assert Counter(row["label"] for row in rows) == {0: shots, 1: shots}
        assert len(texts(rows)) == 2 * shots, "each text once"
    assert disjoint(splits)
    assert load_splits(COLUMNS, dataset=file, num_shots=shots).train == splits.train
    assert load_splits(COLUMNS, dataset=file, num_shots=shots, seed=1).train != splits.train


def test_more_shots_than_there_are_rows_name_the_class(file: str) -> None:
    with pytest.raises(
        DataError, match=r"num_shots 40 needs 80 different training rows of each class .* label 0 has 5\d"
    ):
        load_splits(COLUMNS, dataset=file, num_shots=40)


def test_few_shots_need_classes_and_exclude_other_sizes(file: str) -> None:
    with pytest.raises(ConfigError, match="this task has no classes"):
        load_splits(Columns(text=("text",)), dataset=file, num_shots=2)
    with pytest.raises(ConfigError, match="leave max_dev_samples out"):
        load_splits(COLUMNS, dataset=file, num_shots=2, max_dev_samples=2)


def test_when_no_training_row_is_left_the_sizes_are_named(file: str) -> None:
    with pytest.raises(DataError, match=r"no training rows are left after .* and \d+ for choosing the checkpoint"):
        load_splits(COLUMNS, dataset=file, max_dev_samples=1000)


def test_rows_for_which_prepare_returns_nothing_are_left_out(file: str) -> None:
    splits = load_splits(COLUMNS, dataset=file, prepare=lambda row: row if row["text"].startswith("film") else None)
    assert len(splits.train) + len(splits.evaluation) == 120
