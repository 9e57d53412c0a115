"""Held-out scores of a model that answers in words."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from zoft.errors import NonFiniteLossError
from zoft.evaluation.batches import over_batches
from zoft.evaluation.metrics import metric
from zoft.evaluation.predictions import Evaluation, Prediction
from zoft.evaluation.writing import write_tokens
from zoft.tasks.answers import AnswerTask
from zoft.tasks.encoding import EncodedPrompts, PromptEncoder
from zoft.tasks.scoring import answer_losses

__all__ = ["evaluate_answers", "write_answers"]


def evaluate_answers(
    model: nn.Module,
    dataset: EncodedPrompts,
    encoder: PromptEncoder,
    *,
    batch_size: int = 32,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Let a model write an answer to every example; see `zoft.evaluation.batches.over_batches`.

    The scores are ``f1`` and ``exact_match`` (the best over an example's accepted answers), the task's own metric,
    ``loss`` (cross-entropy of the first accepted answer, mean over its tokens and then over examples) and ``n``.

    Args:
        model: A model that can ``generate``.
        dataset: What ``encoder`` made of the rows.
        encoder: An `AnswerTask`, made ready for the model.
        batch_size: Examples in a batch.
        device: Where the batches go; default: where the model's first parameter lies.

    Raises:
        DataError: The data set is empty.
        NonFiniteLossError: The model's losses are not finite.
    """
    task = encoder.task
    assert isinstance(task, AnswerTask)
    collator = encoder.collator()

    def of_batch(model: nn.Module, batch: dict[str, Tensor]) -> list[tuple[float, str]]:
        losses: list[float] = answer_losses(model, batch).tolist()
        prompts = [dataset[row]["input_ids"] for row in batch["row"].tolist()]
        inputs = {name: tensor.to(batch["row"].device) for name, tensor in collator.prompts(prompts).items()}
        written = write_answers(model, encoder.tokenizer, inputs, max_new_tokens=task.max_new_tokens, stop=task.stop)
        return list(zip(losses, written, strict=True))

    found = over_batches(
        model, dataset, collator, of_batch, batch_size=batch_size, device=device, title="writing answers"
    )
    predictions = [
        Prediction(expected=task.references(row), predicted=text, loss=loss)
        for row, (loss, text) in zip(dataset.rows, found, strict=True)
    ]
    loss = math.fsum(loss for loss, _ in found) / len(found)
    if not math.isfinite(loss):
        raise NonFiniteLossError(
            f"the evaluation loss is {loss} over {len(found)} examples: the model's outputs are not finite. "
            "Lower the learning rate, or load the model in float32"
        )
    scores = {name: metric(name).of(predictions) for name in dict.fromkeys((task.metric, "f1", "exact_match"))}
    return Evaluation({**scores, "loss": loss, "n": len(predictions)}, predictions)


def write_answers(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    inputs: dict[str, Tensor],
    *,
    max_new_tokens: int,
    stop: str | None = None,
) -> list[str]:
    """Return what a model writes after each prompt, greedily.

    Args:
        model: A model that can ``generate``.
        tokenizer: Its tokenizer.
        inputs: ``input_ids`` and ``attention_mask``, [B, L]; of a causal model padded on the left.
        max_new_tokens: The longest text, in tokens.
        stop: What ends a text, and is cut off with what follows.
    """
    tokens = write_tokens(model, tokenizer, inputs, max_new_tokens=max_new_tokens, stop=stop)
    texts: list[str] = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [(text if stop is None else text.partition(stop)[0]).strip() for text in texts]
