"""How likely a model with a layer for classes finds each class of an example."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

__all__ = ["class_logits", "class_losses"]

_FACTS = ("labels", "row")  # of a batch, what the model does not read


def class_logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the scores of the classes in fp32, [B, C].

    Args:
        model: A model of transformers for classification, bare or wrapped.
        batch: What a collator of `zoft.tasks.class_encoding` returns.
    """
    logits: Tensor = model(**{name: tensor for name, tensor in batch.items() if name not in _FACTS}).logits
    return logits.float()


def class_losses(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the cross-entropy of each example's class in nats, [B]; see `class_logits`."""
    return nn.functional.cross_entropy(class_logits(model, batch), batch["labels"], reduction="none")
