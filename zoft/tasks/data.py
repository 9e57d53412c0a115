"""Training and evaluation rows: checked, shuffled before splitting, and disjoint in text.

Everything is decided by ``seed`` through a private generator; the global one is neither read nor seeded.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from zoft.errors import ConfigError, DataError
from zoft.tasks.classes import find_labels
from zoft.tasks.files import load_rows, load_source
from zoft.tasks.hygiene import SplitName
from zoft.tasks.hygiene.wording import normalised
from zoft.tasks.places import Row
from zoft.tasks.rows import Columns, names_of

__all__ = ["Load", "Prepare", "Splits", "load_splits", "permute_labels"]

Prepare = Callable[[dict[str, Any]], Mapping[str, Any] | None]
"""Makes the columns that a task reads out of those that a data set has; None leaves the row out."""


class Load(Protocol):
    """Reads rows from where they are."""

    def __call__(
        self, source: str, config_name: str | None = None, eval_split: str | None = None
    ) -> tuple[list[Row], list[Row] | None]:
        """Return the training rows, and the evaluation rows if the source sets some apart."""


@dataclass(frozen=True)
class Splits:
    """Rows to train on, to choose the best checkpoint by (there may be none), and to measure on.

    No text of ``train`` occurs in ``dev`` or ``evaluation``. Rows that were left out of ``train`` for that are in
    ``left_out``, each with the row of the other split that has its text. ``labels`` are those of the task.
    """

    train: list[Row]
    evaluation: list[Row]
    dev: list[Row] = field(default_factory=list)
    left_out: dict[SplitName, list[tuple[Row, Row]]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()


def load_splits(
    columns: Columns,
    *,
    dataset: str | None = None,
    dataset_config_name: str | None = None,
    train_file: str | None = None,
    eval_file: str | None = None,
    eval_split: str | None = None,
    prepare: Prepare | None = None,
    load: Load = load_source,
    seed: int = 0,
    eval_fraction: float = 0.1,
    max_train_samples: int | None = None,
    max_dev_samples: int | None = None,
    max_eval_samples: int | None = None,
    num_shots: int | None = None,
    drop_shared_texts: bool = True,
) -> Splits:
    """Load, check, shuffle, split, deduplicate and truncate, in this order.

    The evaluation rows come from ``eval_file``, else from the data set's own validation (or test) split on
    the Hub, else from a share ``eval_fraction`` of the shuffled rows. Training rows whose text also occurs among the
    evaluation rows (see `zoft.tasks.hygiene.wording.normalised`) are left out. Development rows are taken from the
    training rows, and share no text with those that remain.

    Args:
        columns: What the task reads; every row is checked against it. A label column without labels stands for those
            that its training rows have.
        dataset: ``packaged:NAME``, a local file, or a Hub name. Exactly one of this and ``train_file`` is
            given.
        dataset_config_name: The Hub data set's configuration, e.g. ``rte`` of ``super_glue``.
        train_file: A local file with the training rows.
        eval_file: A local file with the evaluation rows.
        eval_split: The Hub data set's split with the evaluation rows; default: ``validation``, else ``test``.
        prepare: Makes the columns that the task reads; default: they are the data's own.
        load: Reads a data set; ``eval_file`` is one of the files that `zoft.tasks.files.load_rows` knows.
        seed: Decides the order and the split.
        eval_fraction: Share of the rows held out where no other evaluation rows exist.
        max_train_samples: Keep this many training rows.
        max_dev_samples: Take this many of the training rows away for choosing the best checkpoint; default: none.
        max_eval_samples: Keep this many evaluation rows.
        num_shots: Keep this many training rows of each class, and as many development rows (Gao et al. 2021,
            arXiv 2012.15723); in place of max_train_samples and max_dev_samples.
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
    limits = {"max_train_samples": max_train_samples, "max_dev_samples": max_dev_samples}
    for name, limit in {**limits, "max_eval_samples": max_eval_samples, "num_shots": num_shots}.items():
        if limit is not None and limit < 1:
            raise ConfigError(f"{name} must be at least 1, got {limit}")
    if num_shots is not None:
        if given := [name for name, limit in limits.items() if limit is not None]:
            raise ConfigError(f"num_shots says how many training and development rows to keep; leave {given[0]} out")
        if columns.label is None:
            raise ConfigError("num_shots is a number of rows of each class, and this task has no classes")

    source = dataset or train_file or ""
    train, evaluation = load(source, dataset_config_name, eval_split)
    if eval_file is not None:
        evaluation = load_rows(eval_file)
    if columns.label is not None and not columns.labels:
        columns = replace(columns, labels=find_labels(train, columns.label))
    train = _checked(train, columns, prepare)
    random.Random(f"{seed}/train").shuffle(train)
    if evaluation is None:
        held_out = max(1, round(eval_fraction * len(train)))
        evaluation, train = train[:held_out], train[held_out:]
    else:
        evaluation = _checked(evaluation, columns, prepare)
        random.Random(f"{seed}/evaluation").shuffle(evaluation)

    left_out: dict[SplitName, list[tuple[Row, Row]]] = {}
    if drop_shared_texts:
        train, left_out["evaluation"] = _without_shared_texts(train, evaluation, columns.text)
    dev: list[Row] = []
    if num_shots is not None:
        train, dev = _few_shots(train, columns, num_shots, source)
    elif max_dev_samples is not None:
        dev, train = train[:max_dev_samples], train[max_dev_samples:]
        if drop_shared_texts:
            train, left_out["dev"] = _without_shared_texts(train, dev, columns.text)
    train = train[:max_train_samples]
    evaluation = evaluation[:max_eval_samples]
    if not train:
        shared = sum(map(len, left_out.values()))
        raise DataError(
            f"{source}: no training rows are left after holding out {len(evaluation)} for evaluation and {len(dev)} "
            "for choosing the checkpoint"
            + (f", and leaving out {shared} that have the text of one of those" if shared else "")
        )
    return Splits(train=train, evaluation=evaluation, dev=dev, left_out=left_out, labels=columns.labels)


def _few_shots(rows: Sequence[Row], columns: Columns, num_shots: int, source: str) -> tuple[list[Row], list[Row]]:
    """Take ``num_shots`` rows of each class for training, and the next as many, of other texts, for development."""
    train: list[Row] = []
    dev: list[Row] = []
    for label in columns.labels:
        unique = {_texts(row, columns.text): row for row in rows if columns.class_of(row) == label}
        of_class = list(unique.values())
        if len(of_class) < 2 * num_shots:
            raise DataError(
                f"{source}: num_shots {num_shots} needs {2 * num_shots} different training rows of each class (half of "
                f"them for choosing the checkpoint), but the label {label} has {len(of_class)}"
            )
        train += of_class[:num_shots]
        dev += of_class[num_shots : 2 * num_shots]
    return train, dev


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

    return Splits(
        train=permuted(splits.train, "train"),
        evaluation=permuted(splits.evaluation, "evaluation"),
        dev=permuted(splits.dev, "dev"),
        labels=splits.labels,
    )


def _checked(rows: Iterable[Row], columns: Columns, prepare: Prepare | None) -> list[Row]:
    """Prepare and check every row; messages name it."""
    checked: list[Row] = []
    for row in rows:
        try:
            made = row if prepare is None else _prepared(row, prepare)
            if made is None:
                continue
            columns.check(made)
        except DataError as error:
            raise DataError(f"{row.place}: {error}") from error.__cause__
        checked.append(made)
    return checked


def _prepared(row: Row, prepare: Prepare) -> Row | None:
    try:
        made = prepare(row)
    except DataError:
        raise
    except KeyError as error:  # a column that `prepare` reads
        raise DataError(f"there is no column {error}; found: {names_of(row)}") from None
    except Exception as error:  # whatever the user's function does
        raise DataError(f"prepare failed: {error!r}") from error
    if made is not None and not isinstance(made, Mapping):
        raise DataError(f"prepare must return a row (a dictionary) or None, got {made!r:.80}")
    return None if made is None else Row(made, row.place)


def _texts(row: Row, text_columns: Sequence[str]) -> tuple[str, ...]:
    return tuple(normalised(str(row[name])) for name in text_columns)


def _without_shared_texts(
    train: Sequence[Row], others: Sequence[Row], text_columns: Sequence[str]
) -> tuple[list[Row], list[tuple[Row, Row]]]:
    """Return the rows whose text no other row has, and those that are left, with the other row."""
    seen = {_texts(row, text_columns): row for row in reversed(others)}
    twins = [(row, seen.get(_texts(row, text_columns))) for row in train]
    kept = [row for row, twin in twins if twin is None]
    return kept, [(row, twin) for row, twin in twins if twin is not None]
