"""What training and evaluation need to know of whatever is fine-tuned for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from zoft.evaluation.batches import EncodedDataset
from zoft.evaluation.predictions import Evaluation
from zoft.tasks.hygiene import DataReport

__all__ = ["Evaluate", "Losses", "Problem"]

Losses = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]
"""From a model and a batch of B examples to the loss of each, [B], or to one number for all of them, []."""


class Evaluate(Protocol):
    """Measures a model on encoded examples."""

    def __call__(
        self, model: nn.Module, dataset: Any, *, batch_size: int, device: torch.device | str | None = None
    ) -> Evaluation:
        """Return the scores, and what the model said of each example."""


@dataclass(frozen=True)
class Problem:
    """A task made ready for one model, with its rows.

    Attributes:
        train: Encoded examples to train on.
        dev: Those by which a checkpoint is chosen, if there are any.
        evaluation: Those to measure on, before and after.
        collator: Makes a batch of a list of examples; every tensor's first dimension is the number of examples.
        losses: What training minimises.
        evaluate: What is measured.
        metric: The score by which results are told; one of those that ``evaluate`` returns.
        show: Returns an example of ``evaluation`` as a person reads it, given its place.
        notes: What else to say of the encoded rows before training, a line each.
        data: What an inspection of the rows found; None where they are private, or are not inspected.
        true_evaluation: In a control run, whose labels are shuffled: ``evaluation`` with the true ones.
        is_differentiable: Whether the losses have a gradient.
        writes: Whether the model writes for a loss, which takes a forward pass a token.
        callbacks: What follows the Trainer's state for the losses.
        start: Brings a model that was just loaded to where training is to start from, and returns the names of the
            parameters that it wrote; None: that is where it was loaded.
        settled: Settings that a recipe may leave open, and what the rows have made of them.
    """

    train: EncodedDataset
    evaluation: EncodedDataset
    collator: Callable[[Sequence[Any]], Mapping[str, Tensor]]
    losses: Losses
    evaluate: Evaluate
    metric: str
    show: Callable[[int], str]
    dev: EncodedDataset | None = None
    notes: tuple[str, ...] = ()
    data: DataReport | None = None
    true_evaluation: EncodedDataset | None = None
    is_differentiable: bool = True
    writes: bool = False
    callbacks: tuple[TrainerCallback, ...] = ()
    start: Callable[[nn.Module], tuple[str, ...]] | None = None
    settled: Mapping[str, Any] = field(default_factory=dict)

    def for_trainer(self) -> dict[str, Any]:
        """Return what `zoft.hf.tasks.ProblemTrainer` is made of. It measures on ``dev``, if there is such."""
        return {
            "losses": self.losses,
            "evaluate": self.evaluate,
            "train_dataset": self.train,
            "eval_dataset": self.evaluation if self.dev is None else self.dev,
            "data_collator": self.collator,
            "callbacks": list(self.callbacks),
        }
