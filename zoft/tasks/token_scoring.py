"""How likely a language model finds the trained tokens of conversations.

Only the places that predict a trained token reach the output layer, a few at a time (`zoft.tasks.label_logits`): their
logits would be the largest tensor of a step. Where all are made at once, for a gradient, losses are still taken a few
rows at a time, so that logits are held once, not three times.

Shapes: B examples, T places of trained tokens in each, t of them at a time, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from zoft.tasks.label_values import label_values
from zoft.tasks.option_tokens import NO_TOKEN

__all__ = ["conversation_losses", "token_scores"]

_ROWS = 256  # of logits, whose losses are taken at a time


def conversation_losses(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return each example's cross-entropy, the mean over its trained tokens, in nats and in fp32, [B].

    Args:
        model: A causal language model of transformers, bare or wrapped (PEFT, DistributedDataParallel).
        batch: What `zoft.tasks.conversation_encoding.ConversationCollator` returns; it is not changed.
    """
    ids = batch["label_ids"]

    def losses(logits: Tensor, places: slice) -> Tensor:
        return _of_tokens(_cross_entropy, logits, ids[:, places])

    return label_values(model, batch, batch["label_positions"], losses).sum(-1) / (ids != NO_TOKEN).sum(-1)


def token_scores(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return each trained token's cross-entropy, and whether it is the likeliest: twice [B, T], zero in unused places.

    Args:
        model: As for `conversation_losses`.
        batch: As for `conversation_losses`.
    """
    ids = batch["label_ids"]

    def both(logits: Tensor, places: slice) -> Tensor:
        kinds = (_cross_entropy, _is_likeliest)
        return torch.stack([_of_tokens(each, logits, ids[:, places]) for each in kinds], dim=-1)

    losses, likeliest = label_values(model, batch, batch["label_positions"], both).unbind(-1)
    return losses, likeliest


def _of_tokens(of_rows: Callable[[Tensor, Tensor], Tensor], logits: Tensor, ids: Tensor) -> Tensor:
    """Apply a function to rows of logits [B * t, V] and their tokens [B, t]; zero in unused places: [B, t]."""
    rows = zip(torch.split(logits, _ROWS), torch.split(ids.clamp_min(0).reshape(-1), _ROWS), strict=True)
    values = torch.cat([of_rows(some, their) for some, their in rows])
    return values.view_as(ids).masked_fill(ids == NO_TOKEN, 0)


def _cross_entropy(logits: Tensor, ids: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.float(), ids, reduction="none")


def _is_likeliest(logits: Tensor, ids: Tensor) -> Tensor:
    return (logits.argmax(-1) == ids).float()
