"""A network's first-order expansion around its present weights, as a module that trains like any other."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.func import functional_call, jvp

from zoft.engine import evaluating


class Linearised(nn.Module):
    """``f(x; theta_0) + (theta - theta_0)^T grad f(x; theta_0)`` (Lee et al. 2019, arXiv 1902.06720).

    The model is copied twice; it is not changed. It is expanded in evaluation mode. The tangent kernel is constant in
    theta, so theory for linear models holds exactly.

    Args:
        model: Any module that forward-mode differentiation can pass through.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.moving = copy.deepcopy(model)
        self.start = copy.deepcopy(model).requires_grad_(False)

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        """Return the expansion's outputs, of the shape of the model's."""
        start = dict(self.start.named_parameters())
        change = {name: weight - start[name] for name, weight in self.moving.named_parameters()}
        with evaluating(self.start):
            expansion = jvp(lambda weights: functional_call(self.start, weights, args), (start,), (change,))
        out: torch.Tensor = expansion[0] + expansion[1]
        return out
