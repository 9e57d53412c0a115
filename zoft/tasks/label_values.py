"""Numbers that are computed from the logits at the places where labels are predicted, whatever wraps the model.

Shapes: R rows, L tokens, T label positions in a row.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from zoft.tasks.label_logits import Use, language_model, of_logits

__all__ = ["argument_names", "label_values", "puts_prompt_in_front"]


def label_values(model: nn.Module, batch: Mapping[str, Tensor], positions: Tensor, use: Use) -> Tensor:
    """Apply a function to the logits at the label positions [R, T] of rows; see `zoft.tasks.label_logits.of_logits`."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    accepted = argument_names(type(language_model(model)).forward)
    if puts_prompt_in_front(model):
        # PEFT puts its tokens before a row's padding and takes no positions, so padding must not come first.
        inputs, positions = _padded_on_the_right(inputs, positions)
    elif "position_ids" in batch and "position_ids" in accepted:
        inputs["position_ids"] = batch["position_ids"]
    options = {"use_cache": False} if "use_cache" in accepted else {}
    return of_logits(model, {**inputs, **options}, positions, use)


def puts_prompt_in_front(model: nn.Module) -> bool:
    """Whether a PEFT adapter around the language model embeds virtual tokens before each row's own."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return False
        config = getattr(module, "active_peft_config", None)
        if config is not None:
            return bool(config.is_prompt_learning and config.peft_type != "PREFIX_TUNING")
    return False


def _padded_on_the_right(inputs: dict[str, Tensor], positions: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Roll the padding in front of each row to its end: inputs [R, L], positions [R, T] from the end."""
    mask = inputs["attention_mask"]
    shift = mask.argmax(1, keepdim=True)  # [R, 1], the place of the first real token
    where = (torch.arange(mask.shape[1], device=mask.device) + shift) % mask.shape[1]  # [R, L]
    return {name: tensor.gather(1, where) for name, tensor in inputs.items()}, positions - shift


@cache
def argument_names(function: Callable[..., Any]) -> frozenset[str]:
    """Return what a function's arguments are called."""
    return frozenset(inspect.signature(function).parameters)
