"""How likely a language model finds the trained tokens of conversations.

Only the places that predict a trained token reach the output layer (`zoft.tasks.scoring.label_logits`), and the losses
are taken a few rows of logits at a time: these are the largest tensor of a step, and are held once, not three times.

Shapes: B examples, T places of trained tokens in each, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from zoft.tasks.scoring import NO_TOKEN, label_logits

__all__ = ["conversation_losses", "token_scores"]

_ROWS = 256  # of logits, that are taken at a time


def conversation_losses(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return each example's cross-entropy, the mean over its trained tokens, in nats and in fp32, [B].

    Args:
        model: A causal language model of transformers, bare or wrapped (PEFT, DistributedDataParallel).
        batch: What `zoft.tasks.conversation_encoding.ConversationCollator` returns; it is not changed.
    """
    losses = _of_tokens(_cross_entropy, label_logits(model, batch, batch["label_positions"]), batch)
    return losses.sum(-1) / (batch["label_ids"] != NO_TOKEN).sum(-1)


def token_scores(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return each trained token's cross-entropy, and whether it is the likeliest: twice [B, T], zero in unused places.

    Args:
        model: As for `conversation_losses`.
        batch: As for `conversation_losses`.
    """
    logits = label_logits(model, batch, batch["label_positions"])
    return _of_tokens(_cross_entropy, logits, batch), _of_tokens(_is_likeliest, logits, batch)


def _of_tokens(of_rows: Callable[[Tensor, Tensor], Tensor], logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Apply a function to rows of logits [R, V] and their tokens [R]; zero in unused places: [B, T]."""
    ids = batch["label_ids"]
    rows = zip(torch.split(logits, _ROWS), torch.split(ids.clamp_min(0).reshape(-1), _ROWS), strict=True)
    values = torch.cat([of_rows(some, their) for some, their in rows])
    return values.view_as(ids).masked_fill(ids == NO_TOKEN, 0)


def _cross_entropy(logits: Tensor, ids: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.float(), ids, reduction="none")


def _is_likeliest(logits: Tensor, ids: Tensor) -> Tensor:
    return (logits.argmax(-1) == ids).float()
