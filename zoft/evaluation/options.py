"""Held-out scores of a model that chooses among options."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from zoft.errors import NonFiniteLossError
from zoft.evaluation.batches import over_batches
from zoft.evaluation.metrics import metric
from zoft.evaluation.predictions import Evaluation, Prediction
from zoft.tasks.encoding import EncodedPrompts, PromptEncoder
from zoft.tasks.scoring import option_scores

__all__ = ["Choosing", "evaluate_options", "evaluation_of_scores", "option_predictions", "scores_of_options"]


class Choosing(Protocol):
    """What of a task is needed to judge a choice; see :class:`zoft.tasks.task.Task`."""

    @property
    def metric(self) -> str:
        """The score by which results are told."""

    @property
    def label_words(self) -> tuple[str, ...] | None:
        """What each class is called, if all rows have the same options."""

    def options(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return what there is to choose from."""

    def right(self, row: Mapping[str, Any]) -> tuple[int, ...]:
        """Return which options are right."""


def evaluate_options(
    model: nn.Module,
    dataset: EncodedPrompts,
    encoder: PromptEncoder,
    *,
    batch_size: int = 32,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Let a model choose once for every example; see `zoft.evaluation.batches.over_batches`.

    The scores are ``accuracy``, the task's own metric, ``loss`` (mean cross-entropy over the options, in nats) and
    ``n``. Where all examples have the same options also ``majority_share``, the accuracy of always saying the
    commonest, and ``class_accuracy``, one share a class, None for a class without examples: a model that always says
    one word shows here.

    Args:
        model: The language model.
        dataset: What ``encoder`` made of the rows.
        encoder: The task, made ready for the model.
        batch_size: Examples in a batch.
        device: Where the batches go; default: where the model's first parameter lies.

    Raises:
        DataError: The data set is empty.
        NonFiniteLossError: The model's scores are not finite.
    """
    found = scores_of_options(model, dataset, encoder, batch_size=batch_size, device=device)
    return evaluation_of_scores(encoder.task, dataset.rows, found)


def scores_of_options(
    model: nn.Module,
    dataset: EncodedPrompts,
    encoder: PromptEncoder,
    *,
    batch_size: int = 32,
    device: torch.device | str | None = None,
) -> list[Tensor]:
    """Return the scores of each example's options in fp32, on the CPU; -inf where others have more of them."""

    def of_batch(model: nn.Module, batch: dict[str, Tensor]) -> list[Tensor]:
        return list(option_scores(model, batch).float().cpu())

    return over_batches(model, dataset, encoder.collator(), of_batch, batch_size=batch_size, device=device)


def evaluation_of_scores(task: Choosing, rows: Sequence[Mapping[str, Any]], scores: Sequence[Tensor]) -> Evaluation:
    """Return what `evaluate_options` returns, given the scores of the options.

    Args:
        task: The task.
        rows: B rows.
        scores: The scores of each one's options, [O].

    Raises:
        NonFiniteLossError: The scores are not finite.
    """
    predictions = option_predictions(task, rows, scores)
    losses = [one.loss for one in predictions if one.loss is not None]
    loss = math.fsum(losses) / len(losses)
    if not math.isfinite(loss):
        raise NonFiniteLossError(
            f"the evaluation loss is {loss} over {len(losses)} examples: the model's outputs are not finite. "
            "Lower the learning rate, or load the model in float32"
        )
    figures: dict[str, Any] = {
        "accuracy": metric("accuracy").of(predictions),
        task.metric: metric(task.metric).of(predictions),
        "loss": loss,
        "n": len(predictions),
    }
    if task.label_words is not None:
        figures |= _of_classes(predictions, len(task.label_words))
    return Evaluation(figures, predictions)


def option_predictions(task: Choosing, rows: Sequence[Mapping[str, Any]], scores: Sequence[Tensor]) -> list[Prediction]:
    """Return which option is chosen for each row: the one with the highest score.

    Args:
        task: The task.
        rows: B rows.
        scores: The scores of each one's options, [O].
    """
    predictions = []
    for row, of_options in zip(rows, scores, strict=True):
        options = task.label_words or task.options(row)
        right, chosen = task.right(row), int(of_options.argmax())
        loss = nn.functional.cross_entropy(of_options.unsqueeze(0), of_options.new_tensor([right[0]], dtype=torch.long))
        predictions.append(
            Prediction(
                expected=tuple(options[index].strip() for index in right),
                predicted=options[chosen].strip(),
                right=right,
                chosen=chosen,
                loss=loss.item(),
            )
        )
    return predictions


def _of_classes(predictions: Sequence[Prediction], classes: int) -> dict[str, Any]:
    counts = [sum(one.right[0] == label for one in predictions) for label in range(classes)]
    hits = [sum(one.right[0] == one.chosen == label for one in predictions) for label in range(classes)]
    return {
        "majority_share": max(counts) / len(predictions),
        "class_accuracy": [hit / count if count else None for hit, count in zip(hits, counts, strict=True)],
    }
