"""Small problems with known gradients."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from zoft.analysis.nzk.moments import Array


def batch(num_examples: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features whose scale differs between columns, and labels -1 and +1."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_examples, width, generator=generator, dtype=torch.float64)
    y = torch.sign(torch.randn(num_examples, generator=generator, dtype=torch.float64))
    return x * torch.linspace(0.3, 2.0, width, dtype=torch.float64), y


def linear(width: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(width, 1).double()


def network(width: int, hidden: int = 6) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 1)).double()


def gradients(x: torch.Tensor) -> Array:
    """Those of ``linear``: the features and, for the bias, a one."""
    return np.c_[x.numpy(), np.ones(len(x))]


def residuals(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Array:
    with torch.no_grad():
        found: Array = (model(x).reshape(-1) - y).numpy()
    return found


def relative(got: Array, want: Array) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))
