"""Held-out scores of a model that learns to answer, and a few of its answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoft.errors import NonFiniteLossError
from zoft.evaluation.answers import write_answers
from zoft.evaluation.batches import over_batches
from zoft.evaluation.predictions import Evaluation, Prediction
from zoft.tasks.conversation_encoding import ConversationEncoder, EncodedConversations
from zoft.tasks.conversations import said
from zoft.tasks.label_logits import language_model
from zoft.tasks.option_tokens import NO_TOKEN
from zoft.tasks.prompt_batches import PromptedCollator
from zoft.tasks.token_scoring import token_scores

__all__ = ["WRITTEN", "evaluate_conversations"]

WRITTEN = 12
"""For how many of the first examples an answer is written."""


@dataclass(frozen=True)
class _Scored:
    """Sums over an example's trained tokens."""

    loss: float
    likeliest: float
    tokens: int


def evaluate_conversations(
    model: nn.Module,
    dataset: EncodedConversations,
    encoder: ConversationEncoder,
    *,
    max_new_tokens: int = 0,
    batch_size: int = 32,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Measure a model on conversations; see `zoft.evaluation.batches.over_batches`.

    The scores are ``loss`` (cross-entropy in nats) and ``token_accuracy`` (the share of tokens that are the likeliest),
    each a mean over an example's trained tokens and then over examples, as the loss is trained on; ``perplexity`` (e to
    the mean cross-entropy over all trained tokens), ``tokens`` and ``n``. The predictions hold what the model writes,
    greedily, for the first `WRITTEN` examples, and nothing for others.

    Args:
        model: A causal language model.
        dataset: What ``encoder`` made of the rows.
        encoder: What made it.
        max_new_tokens: The longest text to write, in tokens; 0: write nothing.
        batch_size: Examples in a batch.
        device: Where the batches go; default: where the model's first parameter lies.

    Raises:
        DataError: The data set is empty.
        NonFiniteLossError: The model's losses are not finite.
    """

    def of_batch(model: nn.Module, batch: dict[str, Tensor]) -> list[_Scored]:
        losses, likeliest = token_scores(model, batch)
        tokens = (batch["label_ids"] != NO_TOKEN).sum(-1)
        sums = (losses.double().sum(-1), likeliest.double().sum(-1), tokens)
        return [_Scored(*values) for values in zip(*(each.tolist() for each in sums), strict=True)]

    found = over_batches(model, dataset, encoder.collator(), of_batch, batch_size=batch_size, device=device)
    loss = math.fsum(one.loss / one.tokens for one in found) / len(found)
    if not math.isfinite(loss):
        raise NonFiniteLossError(
            f"the evaluation loss is {loss} over {len(found)} examples: the model's outputs are not finite. "
            "Lower the learning rate, or load the model in float32"
        )
    tokens = sum(one.tokens for one in found)
    written = _write(model, dataset, encoder, max_new_tokens, batch_size, device) if max_new_tokens else {}
    predictions = []
    for index, (row, one) in enumerate(zip(dataset.rows, found, strict=True)):
        _, answer = row["conversation"].turns
        expected = () if answer is None else (said(answer).strip(),)
        predictions.append(
            Prediction(
                expected=expected,
                predicted=written.get(index, ""),
                loss=one.loss / one.tokens,
                score=one.likeliest / one.tokens,
            )
        )
    scores = {
        "loss": loss,
        "perplexity": math.exp(min(math.fsum(one.loss for one in found) / tokens, 700.0)),  # beyond it overflows
        "token_accuracy": math.fsum(one.likeliest / one.tokens for one in found) / len(found),
        "tokens": tokens,
        "n": len(found),
    }
    return Evaluation(scores, predictions)


class _Prompts:
    """The tokens after which answers are to be written, and to which examples they belong."""

    def __init__(self, dataset: EncodedConversations, encoder: ConversationEncoder, longest: int) -> None:
        asked = {index: encoder.asked(row["conversation"]) for index, row in enumerate(dataset.rows[:WRITTEN])}
        self.of_example = {index: ids for index, ids in asked.items() if ids and len(ids) <= longest}
        self._indices = list(self.of_example)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, place: int) -> dict[str, Any]:
        index = self._indices[place]
        return {"input_ids": self.of_example[index], "index": index}


def _write(
    model: nn.Module,
    dataset: EncodedConversations,
    encoder: ConversationEncoder,
    max_new_tokens: int,
    batch_size: int,
    device: torch.device | str | None,
) -> Mapping[int, str]:
    """Return what the model writes for the first examples, by their places; without those that leave it no room."""
    positions = getattr(language_model(model).config, "max_position_embeddings", None)
    longest = encoder.limit if positions is None else min(encoder.limit, positions - max_new_tokens)
    prompts = _Prompts(dataset, encoder, longest)
    if not len(prompts):
        return {}
    collator = PromptedCollator(encoder.pad_token_id)

    def of_batch(model: nn.Module, batch: dict[str, Tensor]) -> list[str]:
        return write_answers(model, encoder.tokenizer, batch, max_new_tokens=max_new_tokens)

    texts = over_batches(
        model,
        prompts,
        lambda examples: collator.prompts([example["input_ids"] for example in examples]),
        of_batch,
        batch_size=batch_size,
        device=device,
        title="writing answers",
    )
    return dict(zip(prompts.of_example, texts, strict=True))
