"""Training and evaluation rows: checked, shuffled before splitting, and disjoint in text.

Everything is decided by ``seed`` through a private generator; the global one is neither read nor seeded.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from zoft.errors import ConfigError, DataError, ZoftWarning, did_you_mean
from zoft.tasks.files import Row, is_local_file, load_hub, load_rows

__all__ = ["Columns", "Splits", "label_key", "load_splits", "permute_labels"]


def label_key(value: object) -> str:
    """Return the text by which two spellings of one label are recognised as the same.

    ``1``, ``1.0`` and ``"1"`` are one label, and so are ``True`` and ``"true"``; ``True`` and ``1`` are two.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value).strip()
    return text.lower() if text.lower() in ("true", "false") else text


@dataclass(frozen=True)
class Columns:
    """What a task reads of a row: its text columns, its label column, and the labels that may occur there."""

    text: tuple[str, ...]
    label: str
    labels: tuple[str, ...]  # as `label_key` writes them, in the order of the label words


@dataclass(frozen=True)
class Splits:
    """The two lists of rows; no text of ``train`` occurs in ``evaluation``."""

    train: list[Row]
    evaluation: list[Row]


def load_splits(
    columns: Columns,
    *,
    dataset: str | None = None,
    dataset_config_name: str | None = None,
    train_file: str | None = None,
    eval_file: str | None = None,
    seed: int = 0,
    eval_fraction: float = 0.1,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
    drop_shared_texts: bool = True,
) -> Splits:
    """Load, check, shuffle, split, deduplicate and truncate, in this order.

    The evaluation rows come from ``eval_file``, else from the data set's own validation (or test) split on
    the Hub, else from a share ``eval_fraction`` of the shuffled rows. Training rows whose text (ignoring
    case and whitespace) also occurs among the evaluation rows are dropped, and their count is printed.

    Args:
        columns: What the task reads; every row is checked against it.
        dataset: ``packaged:NAME``, a local file, or a Hub name. Exactly one of this and ``train_file`` is
            given.
        dataset_config_name: The Hub data set's configuration, e.g. ``rte`` of ``super_glue``.
        train_file: A local file with the training rows.
        eval_file: A local file with the evaluation rows.
        seed: Decides the order and the split.
        eval_fraction: Share of the rows held out where no other evaluation rows exist.
        max_train_samples: Keep this many training rows.
        max_eval_samples: Keep this many evaluation rows.
        drop_shared_texts: False keeps training rows that also occur among the evaluation rows: which rows are trained
            on then does not depend on what private evaluation rows say.

    Raises:
        AssetError: A packaged data set is unknown, missing or altered.
        ConfigError: The arguments contradict each other or are out of range.
        DataError: The rows cannot be used; the message names file, row and value.
    """
    if (dataset is None) == (train_file is None):
        raise ConfigError(f"give either dataset or train_file, got dataset={dataset!r} and train_file={train_file!r}")
    if not 0.0 < eval_fraction < 1.0:
        raise ConfigError(f"eval_fraction must lie between 0 and 1, got {eval_fraction}")
    for name, limit in (("max_train_samples", max_train_samples), ("max_eval_samples", max_eval_samples)):
        if limit is not None and limit < 1:
            raise ConfigError(f"{name} must be at least 1, got {limit}")

    train, evaluation = _load(dataset or train_file or "", dataset_config_name)
    if eval_file is not None:
        evaluation = load_rows(eval_file)
    source = dataset or train_file
    _check(train, columns, f"{source}")
    random.Random(f"{seed}/train").shuffle(train)
    if evaluation is None:
        held_out = max(1, round(eval_fraction * len(train)))
        evaluation, train = train[:held_out], train[held_out:]
    else:
        _check(evaluation, columns, eval_file or f"{source} (evaluation split)")
        random.Random(f"{seed}/evaluation").shuffle(evaluation)

    if drop_shared_texts:
        train = _without_shared_texts(train, evaluation, columns.text)
    train = train[:max_train_samples]
    evaluation = evaluation[:max_eval_samples]
    if not train:
        raise DataError(f"{source}: no training rows are left after holding out {len(evaluation)} for evaluation")
    _warn_of_absent_labels(train, columns)
    return Splits(train=train, evaluation=evaluation)


def permute_labels(splits: Splits, label_column: str, seed: int) -> Splits:
    """Permute the labels within the training rows and within the evaluation rows: the data of a control run.

    Texts and label frequencies stay, what joins them goes: the null hypothesis of a permutation test (Ojala
    and Garriga, JMLR 11, 2010, test 1). Whatever is trained on such rows and scores above chance on them has
    seen what it should not.

    Args:
        splits: The rows; they are not changed.
        label_column: The column that holds the label.
        seed: Decides the permutations.
    """

    def permuted(rows: Sequence[Row], name: str) -> list[Row]:
        labels = [row[label_column] for row in rows]
        random.Random(f"{seed}/labels/{name}").shuffle(labels)
        return [Row({**row, label_column: label}, row.place) for row, label in zip(rows, labels, strict=True)]

    return Splits(train=permuted(splits.train, "train"), evaluation=permuted(splits.evaluation, "evaluation"))


def _load(source: str, config_name: str | None) -> tuple[list[Row], list[Row] | None]:
    if source.startswith("packaged:") or is_local_file(source):
        return load_rows(source), None
    return load_hub(source, config_name)


def _check(rows: Sequence[Row], columns: Columns, source: str) -> None:
    """Check every row before the order is lost, so that messages can name the row."""
    needed = (*columns.text, columns.label)
    for number, row in enumerate(rows, start=1):
        for name in needed:
            if name not in row:
                raise DataError(
                    f"{source}: row {number} has no column {name!r}; found: {', '.join(map(repr, row))}."
                    f"{did_you_mean(name, row)}"
                )
        for name in columns.text:
            if not isinstance(row[name], (str, int, float)):
                raise DataError(
                    f"{source}: row {number}: column {name!r} must hold text or a number, "
                    f"got {type(row[name]).__name__}"
                )
        if label_key(row[columns.label]) not in columns.labels:
            raise DataError(
                f"{source}: row {number}: column {columns.label!r} holds {row[columns.label]!r}, "
                f"known labels are {', '.join(columns.labels)}. Set 'labels' to the data's values, "
                "in the order of label_words"
            )


def _normalised(row: Row, text_columns: Sequence[str]) -> tuple[str, ...]:
    return tuple(" ".join(str(row[name]).split()).casefold() for name in text_columns)


def _without_shared_texts(train: list[Row], evaluation: list[Row], text_columns: Sequence[str]) -> list[Row]:
    seen = {_normalised(row, text_columns) for row in evaluation}
    kept = [row for row in train if _normalised(row, text_columns) not in seen]
    if dropped := len(train) - len(kept):
        print(f"dropped {dropped} training rows whose text is also among the evaluation rows", file=sys.stderr)
    return kept


def _warn_of_absent_labels(train: Sequence[Row], columns: Columns) -> None:
    counts = Counter(label_key(row[columns.label]) for row in train)
    absent = [label for label in columns.labels if not counts[label]]
    if absent:
        warnings.warn(
            f"no training row has the label {', '.join(absent)} ({len(train)} rows); "
            "is the file sorted, cut short, or 'labels' too long?",
            ZoftWarning,
            stacklevel=3,
        )
