"""Problems of a model with a layer for classes, of texts or of images."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from zoft.evaluation.classes import evaluate_classes
from zoft.evaluation.last_layer import probe_last_layer
from zoft.problems.problem import Problem
from zoft.tasks.class_encoding import ClassEncoder, EncodedTexts
from zoft.tasks.class_scoring import class_losses
from zoft.tasks.data import Splits
from zoft.tasks.hygiene import DataReport, SplitName, TokenLengths, inspect_data

__all__ = ["class_problem"]


def class_problem(
    encoder: ClassEncoder,
    splits: Splits,
    true_splits: Splits | None = None,
    *,
    inspect: bool = True,
    probe: Mapping[str, Any] | None = None,
) -> Problem:
    """Encode rows, and say how they are trained on and measured.

    Args:
        encoder: The task, made ready for a model.
        splits: The rows.
        true_splits: In a control run: the rows with their true labels.
        inspect: Look for what is wrong with the rows; not to be done with private ones.
        probe: Fit the last layer first, with these options of `zoft.evaluation.last_layer.probe_last_layer`.
    """
    train, evaluation = encoder.encode(splits.train), encoder.encode(splits.evaluation)
    dev = encoder.encode(splits.dev) if splits.dev else None
    named: dict[SplitName, Any] = {"train": train, "dev": dev, "evaluation": evaluation}
    return Problem(
        train=train,
        dev=dev,
        evaluation=evaluation,
        collator=encoder.collator(),
        losses=class_losses,
        evaluate=partial(evaluate_classes, encoder=encoder),
        metric=encoder.task.metric,
        show=lambda index: encoder.show(evaluation.rows[index]),
        notes=_notes(encoder, splits) if inspect else (),
        data=_inspected(encoder, true_splits or splits, named) if inspect and isinstance(train, EncodedTexts) else None,
        true_evaluation=None if true_splits is None else encoder.encode(true_splits.evaluation),
        start=None if probe is None else partial(probe_last_layer, train=train, encoder=encoder, **probe),
        settled={"labels": list(encoder.task.columns.labels)},
    )


def _notes(encoder: ClassEncoder, splits: Splits) -> tuple[str, ...]:
    notes = [f"{len(encoder.task.names)} classes: {', '.join(encoder.task.names)}"]
    if shared := sum(map(len, splits.left_out.values())):
        notes.append(f"{shared} training rows are left out, which are among the rows to measure or to choose by, too")
    return tuple(notes)


def _inspected(encoder: ClassEncoder, splits: Splits, encoded: Mapping[SplitName, EncodedTexts | None]) -> DataReport:
    columns = encoder.task.columns
    return inspect_data(
        {"train": splits.train, "dev": splits.dev, "evaluation": splits.evaluation},
        lambda row: [str(row[name]) for name in columns.text],
        columns.class_of,
        labels=columns.labels,
        left_out=splits.left_out,
        tokens={name: TokenLengths(texts.lengths, texts.sizes) for name, texts in encoded.items() if texts is not None},
    )
