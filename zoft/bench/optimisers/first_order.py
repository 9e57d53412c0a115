"""First-order baselines on mini-batches. A step costs a gradient (three forwards); SVRG's costs two, and anchors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zoft.bench.objective import Objective
from zoft.checks import check_count, check_not_negative, check_share


@dataclass(frozen=True)
class Sgd:
    """torch's SGD.

    Attributes:
        momentum: In [0, 1).
    """

    momentum: float = 0.0
    tunes_lr = True

    def __post_init__(self) -> None:
        check_share("momentum", self.momentum)

    def minimise(self, objective: Objective, lr: float) -> None:
        """See :class:`zoft.bench.optimisers.Optimiser`."""
        _follow(objective, torch.optim.SGD(objective.parameters.values(), lr=lr, momentum=self.momentum))


@dataclass(frozen=True)
class AdamW:
    """torch's AdamW.

    Attributes:
        weight_decay: Rate, multiplied by the learning rate, >= 0.
    """

    weight_decay: float = 0.0
    tunes_lr = True

    def __post_init__(self) -> None:
        check_not_negative("weight_decay", self.weight_decay)

    def minimise(self, objective: Objective, lr: float) -> None:
        """See :class:`zoft.bench.optimisers.Optimiser`."""
        _follow(objective, torch.optim.AdamW(objective.parameters.values(), lr=lr, weight_decay=self.weight_decay))


@dataclass(frozen=True)
class Svrg:
    """Stochastic variance-reduced gradient (Johnson and Zhang 2013, NeurIPS 26), option I.

    ``theta -= lr (g_b(theta) - g_b(anchor) + g(anchor))``, g over all rows and g_b over the step's batch; every
    ``epochs`` epochs theta becomes the anchor.

    Attributes:
        epochs: From one anchor to the next, >= 1; two is the paper's choice for convex losses.
    """

    epochs: int = 2
    tunes_lr = True

    def __post_init__(self) -> None:
        check_count("epochs", self.epochs)

    def minimise(self, objective: Objective, lr: float) -> None:
        """See :class:`zoft.bench.optimisers.Optimiser`."""
        parameters = list(objective.parameters.values())
        period = self.epochs * (objective.problem.train_rows // objective.batch_size)
        anchor: list[Tensor] = []
        full: list[Tensor] = []
        while True:
            if objective.steps % period == 0:
                full = _gradient(objective, objective.everything)
                anchor = [p.detach().clone() for p in parameters]
            here, rows = [p.detach().clone() for p in parameters], objective.batch()
            try:
                _set(parameters, anchor)
                there_slope = _gradient(objective, rows)
            finally:
                _set(parameters, here)
            here_slope = _gradient(objective, rows)
            _set(
                parameters,
                [w - lr * (a - b + g) for w, a, b, g in zip(here, here_slope, there_slope, full, strict=True)],
            )
            objective.step_done()


def _follow(objective: Objective, optimizer: torch.optim.Optimizer) -> None:
    while True:
        objective.loss_with_gradient(objective.batch())
        optimizer.step()
        objective.step_done()


def _gradient(objective: Objective, rows: Tensor) -> list[Tensor]:
    objective.loss_with_gradient(rows)
    return [p.grad.clone() for p in objective.parameters.values() if p.grad is not None]


@torch.no_grad()
def _set(parameters: list[torch.nn.Parameter], values: list[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
