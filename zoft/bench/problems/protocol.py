"""What a benchmark trains: one protocol for tables, encoders and prompted language models."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Scores(NamedTuple):
    """Mean cross-entropy in nats, and accuracy."""

    loss: float
    accuracy: float


class Problem(Protocol):
    """A model with data, where it stands when a run begins."""

    model: nn.Module
    batch_size: int

    @property
    def train_rows(self) -> int:
        """How many rows there are to train on."""

    @property
    def splits(self) -> tuple[str, ...]:
        """What :meth:`scores` can score: always ``dev`` and ``test``; ``shifted`` is out of distribution."""

    def losses(self, rows: Tensor) -> Tensor:
        """Return the training loss of each of these rows, [B], differentiable."""

    def scores(self, split: str) -> Scores:
        """Score the model as it is."""

    def chance(self, split: str) -> Scores:
        """Return the scores of a model that knows nothing but the number of classes."""


class Task(Protocol):
    """A frozen dataclass of options that builds problems."""

    def build(self, seed: int, device: torch.device) -> Problem:
        """Build the problem as it stands at a run's start; the data's splits do not depend on the seed."""
