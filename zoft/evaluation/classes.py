"""Held-out scores of a model with a layer for classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoft.evaluation.batches import over_batches
from zoft.evaluation.metrics import metric
from zoft.evaluation.options import evaluation_of_scores
from zoft.evaluation.predictions import Evaluation
from zoft.tasks.class_encoding import ClassEncoder, EncodedClasses
from zoft.tasks.class_scoring import class_logits

__all__ = ["evaluate_classes"]


def evaluate_classes(
    model: nn.Module,
    dataset: EncodedClasses,
    encoder: ClassEncoder,
    *,
    batch_size: int = 32,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Let a model choose a class for every example; see `zoft.evaluation.batches.over_batches`.

    The scores are those of `zoft.evaluation.options.evaluate_options`, ``macro_f1``, and ``classes``, what the classes
    of ``class_accuracy`` are called.

    Args:
        model: A model of transformers for classification.
        dataset: What ``encoder`` made of the rows.
        encoder: The task, made ready for the model.
        batch_size: Examples in a batch.
        device: Where the batches go; default: where the model's first parameter lies.

    Raises:
        DataError: The data set is empty.
        NonFiniteLossError: The model's scores are not finite.
    """

    def of_batch(model: nn.Module, batch: dict[str, Tensor]) -> list[Tensor]:
        return list(class_logits(model, batch).cpu())

    scores = over_batches(
        model, dataset, encoder.collator(), of_batch, batch_size=batch_size, device=device, sizes=dataset.sizes
    )
    chosen = evaluation_of_scores(encoder.task, dataset.rows, scores)
    more = {"macro_f1": metric("macro_f1").of(chosen.predictions), "classes": list(encoder.task.names)}
    return Evaluation({**chosen.scores, **more}, chosen.predictions)
