"""Which of a pretrained model's weights a problem trains: all, an adapter, or those of some names."""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch
from torch import nn
from transformers import PreTrainedModel

from zoft.errors import ConfigError

LORA_RANK = 8


def select_trained(model: PreTrainedModel, train: str, seed: int) -> nn.Module:
    """Set what requires a gradient, and return the model, with an adapter around it if that is what is trained.

    Args:
        model: The pretrained model.
        train: ``full``, ``lora`` (PEFT, rank 8, alpha 16, on the attention's queries and values), or a
            shell-style pattern of parameter names such as ``*norm*``.
        seed: Of the adapter's random half.

    Raises:
        ConfigError: If a pattern matches no parameter.
    """
    if train == "full":
        return model.requires_grad_(True)
    if train == "lora":
        from peft import LoraConfig, get_peft_model

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            adapted = get_peft_model(model, LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK))
        assert isinstance(adapted, nn.Module)
        return adapted
    matched = [name for name, _ in model.named_parameters() if fnmatchcase(name, train)]
    if not matched:
        raise ConfigError(f"train must be full, lora or a pattern of parameter names; {train!r} matches none.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in matched)
    return model
