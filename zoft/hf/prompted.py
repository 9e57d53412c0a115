"""A trainer whose loss is that of prompted classification."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import EvalPrediction, Trainer, TrainerCallback

from zoft.hf.trainer import ZOTrainerMixin
from zoft.tasks.prompted import option_scores


class _PromptedLoss(Trainer):
    """Scores the label words at their positions only; see :func:`zoft.tasks.prompted.option_scores`."""

    # The loss is a mean over the batch, which Trainer must still divide by the accumulation steps.
    loss_is_scaled_for_ga = False

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the cross-entropy over the options, and their scores as logits if asked.

        Of each example, for a method that asks for that; else their mean.
        """
        scores = option_scores(model, inputs)
        of_each = self._wants_losses_of_examples() and not return_outputs
        loss = nn.functional.cross_entropy(scores, inputs["labels"], reduction="none" if of_each else "mean")
        return (loss, {"loss": loss, "logits": scores}) if return_outputs else loss

    def _wants_losses_of_examples(self) -> bool:
        return False


class PromptedTrainer(ZOTrainerMixin, _PromptedLoss):  # type: ignore[misc]
    """Zeroth-order prompted classification, as ``zoft-train`` runs it."""

    def _wants_losses_of_examples(self) -> bool:
        return self._zo_optimizer is not None and self.zo_engine.method.evaluation == "per_example"


class OnceLogged(TrainerCallback):
    """Calls a function when a run begins and its log is open; add it after the trainer was made."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """See the class."""
        self._function()


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """``compute_metrics`` for Trainer: the share of rows whose best-scored option is right."""
    return {"accuracy": float(np.mean(np.argmax(prediction.predictions, axis=-1) == prediction.label_ids))}
