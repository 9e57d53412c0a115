"""A Trainer's ``compute_loss`` as a closure that can be evaluated again and again on one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from zoft.types import LossFn


def repeatable(
    trainer: Any, model: nn.Module, inputs: Mapping[str, Any], compute: Callable[[dict[str, Any]], torch.Tensor]
) -> LossFn:
    """Make every evaluation start from the same inputs and the same Trainer.

    Args:
        trainer: The Trainer. Plain numbers among its attributes are counters (TRL counts tokens in
            ``compute_loss``): they count a batch once, however often it is evaluated.
        model: What ``compute`` calls: ``trainer.model`` or a wrapper around it.
        inputs: The batch. Some losses pop entries from it or write into its tensors.
        compute: From a batch to its loss.
    """
    counters = {name: value for name, value in vars(trainer).items() if type(value) in (int, float)}

    def loss() -> torch.Tensor:
        vars(trainer).update(counters)
        with _shown_in_training_mode(trainer.model, model):
            return compute(tree_map_only(torch.Tensor, torch.clone, dict(inputs)))

    return loss


@contextmanager
def _shown_in_training_mode(model: nn.Module, called: nn.Module) -> Iterator[None]:
    """Let what is around the model see that this is training, by which TRL files its metrics.

    The model itself, whose dropout is off, sees it in none of its forwards.
    """

    def enter(*_: Any) -> None:
        model.training = False

    def leave(*_: Any) -> None:
        model.training = True

    # Around all other hooks: those that the user has on the model belong to its forward.
    hooks = [called.register_forward_pre_hook(enter, prepend=True), called.register_forward_hook(leave)]
    model.training = True
    try:
        yield
    finally:
        model.training = False
        for hook in hooks:
            hook.remove()
