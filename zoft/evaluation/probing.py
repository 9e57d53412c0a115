"""Linear probing: a logistic regression on what a language model's output layer reads, in that layer's place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoft.errors import ConfigError, DataError
from zoft.evaluation.batches import over_batches
from zoft.evaluation.options import evaluation_of_scores
from zoft.evaluation.predictions import Evaluation
from zoft.tasks.encoding import EncodedPrompts, PromptEncoder
from zoft.tasks.scoring import label_states
from zoft.tasks.task import Task

__all__ = [
    "STRENGTHS",
    "check_rows_of_each_class",
    "evaluate_probe",
    "fit_probe",
    "label_features",
    "probed_words",
]

MOST_FOLDS = 5
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def evaluate_probe(
    model: nn.Module,
    train: EncodedPrompts,
    evaluation: EncodedPrompts,
    encoder: PromptEncoder,
    *,
    batch_size: int = 32,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Fit a probe on training rows and measure it on evaluation rows, as `zoft.evaluation.options` does a model.

    Args:
        model: The language model, whose weights are only read.
        train: The training rows, encoded.
        evaluation: The rows to measure on, encoded.
        encoder: The task, made ready for the model.
        batch_size: Examples in a batch.
        device: Where the batches go; default: where the model's first parameter lies.

    Raises:
        ConfigError: The task's rows have options of their own.
        DataError: A class has fewer than two training rows.
    """
    words = probed_words(encoder.task)
    labels = [encoder.task.right(row)[0] for row in train.rows]
    check_rows_of_each_class(labels, words)
    features, of_evaluation = (
        label_features(model, rows, encoder, batch_size=batch_size, device=device) for rows in (train, evaluation)
    )
    probe = fit_probe(features, labels)
    log_probabilities = probe.predict_log_proba(of_evaluation)
    return evaluation_of_scores(encoder.task, evaluation.rows, list(torch.from_numpy(log_probabilities)))


def probed_words(task: Task) -> tuple[str, ...]:
    """Return what the classes are called that a probe tells apart.

    Raises:
        ConfigError: There are none.
    """
    if task.label_words is None:
        raise ConfigError(
            "linear_probe tells classes apart, and this task has none: its rows have options or answers of their own. "
            "Leave it out"
        )
    return task.label_words


def label_features(
    model: nn.Module,
    dataset: EncodedPrompts,
    encoder: PromptEncoder,
    *,
    batch_size: int = 32,
    device: torch.device | str | None = None,
) -> NDArray[np.float64]:
    """Return what the output layer reads where each example's option is predicted, [N, H]."""
    # Which options there are does not matter to what comes before them; one token each makes one row an example.
    token = ((0,),) if encoder.kind == "seq2seq" else ((0,), (0,))
    examples = [example.copy() for example in dataset.examples]
    for example in examples:
        example["options"] = token

    def of_batch(model: nn.Module, batch: dict[str, Tensor]) -> list[Tensor]:
        return list(label_states(model, batch).cpu())

    found = over_batches(
        model,
        replace(dataset, examples=examples),
        encoder.collator(),
        of_batch,
        batch_size=batch_size,
        device=device,
        title="reading features",
    )
    return torch.stack(found).double().numpy()


def check_rows_of_each_class(labels: Sequence[int], names: Sequence[str]) -> None:
    """Check that a probe's strength can be cross-validated.

    Args:
        labels: The classes of the training rows.
        names: What the classes are called.

    Raises:
        DataError: A class has fewer than two rows.
    """
    count = Counter(labels)
    if few := [name for label, name in enumerate(names) if count[label] < 2]:
        raise DataError(f"a linear probe needs two training rows of each class at least; {few[0]!r} has fewer")


def fit_probe(features: NDArray[np.float64], labels: Sequence[int], *, with_bias: bool = True) -> Any:
    """Fit scikit-learn's logistic regression to standardised features.

    How much its weights are held back is chosen among :data:`STRENGTHS` (scikit-learn's C: the smaller, the more) by
    the loss in a cross-validation among the training rows: features that say nothing about the classes would
    otherwise be fitted to the noise in them.

    Args:
        features: Of N training rows, [N, H].
        labels: Their classes, two rows of each at least.
        with_bias: False: features are scaled alone, not shifted, and the scores are a linear function of them.

    Returns:
        A fitted pipeline of scikit-learn.
    """
    from sklearn.linear_model import LogisticRegression  # takes seconds, which other modes need not wait for
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(
        StandardScaler(with_mean=with_bias), LogisticRegression(max_iter=5000, fit_intercept=with_bias)
    )
    folds = min(MOST_FOLDS, min(Counter(labels).values()))
    search = GridSearchCV(probe, {"logisticregression__C": STRENGTHS}, scoring="neg_log_loss", cv=folds)
    return search.fit(features, labels).best_estimator_
