"""Metrics as objectives: one minus the score of what the model chooses, or writes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from zoft.evaluation.answers import write_answers
from zoft.evaluation.metrics import Metric
from zoft.evaluation.options import option_predictions
from zoft.evaluation.predictions import Prediction
from zoft.problems.problem import Losses
from zoft.tasks.answers import AnswerTask
from zoft.tasks.encoding import EncodedPrompts, PromptEncoder
from zoft.tasks.scoring import option_scores

__all__ = ["score_losses"]


def score_losses(encoder: PromptEncoder, dataset: EncodedPrompts, metric: Metric) -> Losses:
    """Return the objective ``1 - metric``: of each example where the metric is a mean over examples, else of the batch.

    Args:
        encoder: The task, made ready for the model.
        dataset: What ``encoder`` made of the rows that batches are made of, with all their options.
        metric: The score, the higher the better.

    Returns:
        Losses in fp32, [B] or []; NaN where the model's scores are.
    """

    def losses(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        predictions = _predictions(model, batch, encoder, dataset)
        if any(one.loss is not None and math.isnan(one.loss) for one in predictions):
            scores: float | list[float] = math.nan  # not the error rate of a model that has no choice
        elif metric.of_each is not None:
            scores = [metric.of_each(one) for one in predictions]
        else:
            scores = metric.of(predictions)
        return 1.0 - torch.tensor(scores, device=batch["row"].device)

    return losses


def _predictions(
    model: nn.Module, batch: Mapping[str, Tensor], encoder: PromptEncoder, dataset: EncodedPrompts
) -> Sequence[Prediction]:
    places, task = batch["row"].tolist(), encoder.task
    rows = [dataset.rows[place] for place in places]
    if not isinstance(task, AnswerTask):
        return option_predictions(task, rows, list(option_scores(model, batch).float().cpu()))
    prompts = encoder.collator().prompts([dataset[place]["input_ids"] for place in places])
    inputs = {name: tensor.to(batch["row"].device) for name, tensor in prompts.items()}
    written = write_answers(model, encoder.tokenizer, inputs, max_new_tokens=task.max_new_tokens, stop=task.stop)
    return [Prediction(expected=task.references(row), predicted=text) for row, text in zip(rows, written, strict=True)]
