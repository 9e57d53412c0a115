"""Classification with a cross-entropy loss: all that the kinds of problems share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from zoft.bench.problems.protocol import Scores


@dataclass(frozen=True)
class Split:
    """Rows with their classes.

    Attributes:
        labels: Classes, [n].
        inputs: Makes of row numbers [B] what the model is given.
    """

    labels: Tensor
    inputs: Callable[[Tensor], Any]


class Classification:
    """See :class:`zoft.bench.problems.Problem`.

    The model is in evaluation mode throughout, so that dropout makes no method's loss another function.

    Args:
        model: What is trained, where it requires a gradient.
        logits: Makes of inputs the scores of the classes, [B, classes].
        splits: The rows by name: ``train``, ``dev``, ``test`` and, if there is one, ``shifted``.
        classes: How many there are.
        batch_size: Rows of one step.
        l2: Weight of half the squared length of the trained weights in the training loss.
        scores_train: Whether ``train`` is among the splits that are scored.
    """

    def __init__(
        self,
        model: nn.Module,
        logits: Callable[[Any], Tensor],
        splits: Mapping[str, Split],
        *,
        classes: int,
        batch_size: int,
        l2: float = 0.0,
        scores_train: bool = False,
    ) -> None:
        self.model = model.eval()
        self.batch_size = batch_size
        self._logits = logits
        self._splits = splits
        self._classes = classes
        self._l2 = l2
        self._scores_train = scores_train

    @property
    def train_rows(self) -> int:
        """See :class:`zoft.bench.problems.Problem`."""
        return len(self._splits["train"].labels)

    @property
    def splits(self) -> tuple[str, ...]:
        """See :class:`zoft.bench.problems.Problem`."""
        return tuple(name for name in self._splits if name != "train" or self._scores_train)

    def losses(self, rows: Tensor) -> Tensor:
        """See :class:`zoft.bench.problems.Problem`."""
        train = self._splits["train"]
        scores = self._logits(train.inputs(rows))
        losses = cross_entropy(scores, train.labels[rows].to(scores.device), reduction="none")
        if not self._l2:
            return losses
        squares = [parameter.square().sum() for parameter in self.model.parameters() if parameter.requires_grad]
        return losses + self._l2 / 2 * torch.stack(squares).sum()

    @torch.no_grad()
    def scores(self, split: str) -> Scores:
        """See :class:`zoft.bench.problems.Problem`."""
        chosen = self._splits[split]
        # No larger than in training, whose peak of memory is measured.
        rows = torch.split(torch.arange(len(chosen.labels)), self.batch_size)
        scores = torch.cat([self._logits(chosen.inputs(part)).float().cpu() for part in rows])
        correct = scores.argmax(1) == chosen.labels
        return Scores(float(cross_entropy(scores, chosen.labels)), float(correct.float().mean()))

    def chance(self, split: str) -> Scores:
        """See :class:`zoft.bench.problems.Problem`: the loss of even odds, the commonest class's share."""
        labels = self._splits[split].labels
        return Scores(float(torch.tensor(self._classes).log()), float(torch.bincount(labels).max()) / len(labels))


def flip_labels(labels: Tensor, share: float, classes: int, seed: int) -> Tensor:
    """Give a share of rows, chosen at random, another class, each with the same chance: symmetric label noise.

    Args:
        labels: Classes, [n]; not changed.
        share: Of the rows whose label is wrong afterwards, in [0, 1); the number of rows is rounded.
        classes: How many there are.
        seed: Decides which rows, and what they become.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    noisy = labels.clone()
    noisy[rows] = (labels[rows] + torch.randint(1, classes, (len(rows),), generator=generator)) % classes
    return noisy
