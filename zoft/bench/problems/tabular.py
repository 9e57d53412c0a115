"""Small problems on scikit-learn's packaged data: logistic regression and multilayer perceptrons.

Splits: of all rows, standardised, those with the largest fifth of scores on the second principal component are the
``shifted`` split, which is never trained on: a shift of covariates, and in data of several classes of these, too, some
of which are rare there, or in training, or missing. (The first component nearly is the label in some of these data.)
Of the others, drawn once for all seeds, half are for training, a fifth for tuning, the rest for testing. What the
model sees is standardised by the training rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn

from zoft.bench.problems.classification import Classification, Split, flip_labels
from zoft.checks import check_choice, check_count, check_not_negative, check_share

DATASETS = ("breast_cancer", "digits", "wine")

SPLIT_SEED = 0


@dataclass(frozen=True)
class Tabular:
    """Options of a small problem.

    Attributes:
        dataset: One of :data:`DATASETS`.
        hidden: Widths of the hidden layers (tanh); none is logistic regression, which starts at zero.
        l2: Weight decay inside the loss, >= 0; with it logistic regression has one minimum. Methods that perturb
            what modules compute, not the weights (``grzo``), cannot see it, and say so.
        label_noise: Share of training labels that are made wrong, in [0, 1).
        batch_size: Rows of one step.
    """

    dataset: str
    hidden: tuple[int, ...] = ()
    l2: float = 0.0
    label_noise: float = 0.0
    batch_size: int = 32

    def __post_init__(self) -> None:
        check_choice("dataset", self.dataset, DATASETS)
        for width in self.hidden:
            check_count("hidden", width)
        check_not_negative("l2", self.l2)
        check_share("label_noise", self.label_noise)
        check_count("batch_size", self.batch_size)

    def build(self, seed: int, device: torch.device) -> Classification:
        """See :class:`zoft.bench.problems.Task`."""
        data = {name: (x.to(device), y) for name, (x, y) in _load(self.dataset).items()}
        features, classes = data["train"][0].shape[1], int(data["train"][1].max()) + 1
        x, y = data["train"]
        data["train"] = (x, flip_labels(y, self.label_noise, classes, seed))
        model = _perceptron([features, *self.hidden, classes], seed).to(device)
        splits = {name: Split(y, lambda rows, x=x: x[rows]) for name, (x, y) in data.items()}  # type: ignore[misc]
        return Classification(
            model, model, splits, classes=classes, batch_size=self.batch_size, l2=self.l2, scores_train=True
        )


@cache
def _load(name: str) -> dict[str, tuple[Tensor, Tensor]]:
    from sklearn import datasets

    loaded = getattr(datasets, f"load_{name}")()
    x = torch.tensor(loaded.data, dtype=torch.float64)
    y = torch.tensor(loaded.target)
    standard = (x - x.mean(0)) / x.std(0).clamp_min(1e-6)
    component = torch.linalg.svd(standard, full_matrices=False).Vh[1]
    component = component * component[component.abs().argmax()].sign()  # either sign is a principal component
    by_score = (standard @ component).argsort()
    count = len(by_score) // 5
    usual = by_score[:-count]
    usual = usual[torch.randperm(len(usual), generator=torch.Generator().manual_seed(SPLIT_SEED))]
    half, fifth = len(usual) // 2, len(usual) // 5
    rows = {
        "train": usual[:half],
        "dev": usual[half : half + fifth],
        "test": usual[half + fifth :],
        "shifted": by_score[-count:],
    }
    mean, deviation = x[rows["train"]].mean(0), x[rows["train"]].std(0).clamp_min(1e-6)
    # A pixel that is always white in training says nothing, however far from white it is elsewhere.
    scaled = ((x - mean) / deviation).clamp(-5.0, 5.0).float()
    return {split: (scaled[chosen], y[chosen]) for split, chosen in rows.items()}


def _perceptron(widths: Sequence[int], seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    if len(widths) == 2:
        for parameter in layers[0].parameters():
            nn.init.zeros_(parameter)
    return nn.Sequential(*layers[:-1])
