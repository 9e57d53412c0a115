"""Slopes by forward-mode differentiation: exact, of every weight that the loss reads, and without a trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import zoft
from tests.core.conftest import FAMILIES, make
from tests.core.runs import digest
from zoft.errors import ConfigError, PlacementError
from zoft.noise import Span, Term

CONFIG = zoft.ZOConfig(method="forward_grad", num_queries=2)


def inner_products(model: nn.Module, loss: Any, engine: Any) -> list[float]:
    """``grad . z`` by backpropagation."""
    loss().backward()
    totals = []
    for query in range(2):
        total = 0.0
        for trainable in engine.trainables:
            gradient = trainable.parameter.grad
            z = torch.zeros_like(trainable.parameter.data)
            engine.directions.combine([Span(z, z, trainable.number)], [Term(0, query, 1.0)])
            total += float((gradient.double() * z.double()).sum())
        totals.append(total)
    model.zero_grad(set_to_none=True)
    return totals


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_slopes_are_those_of_backpropagation(family: str, dtype: torch.dtype) -> None:
    """Also in bfloat16, where a difference of two losses is mostly rounding."""
    model, loss = make(family, dtype)
    opt = zoft.ZOOptimizer(model, 0.0, CONFIG)
    before, held = digest(model), dict(model.named_parameters())
    estimate = opt.engine.estimate(loss)
    model.eval()
    want = inner_products(model, loss, opt.engine)
    tolerance = {"rel": 1e-4, "abs": 1e-4} if dtype is torch.float32 else {"rel": 0.1, "abs": 0.05}
    assert list(estimate.scalars) == pytest.approx(want, **tolerance)
    with torch.no_grad():
        assert estimate.loss == pytest.approx(float(loss()), rel=1e-2 if dtype is torch.bfloat16 else 1e-5)
    assert opt.engine.placement == "dual" and digest(model) == before
    assert all(parameter is held[name] for name, parameter in model.named_parameters())


def test_parameters_come_back_after_an_exception() -> None:
    model, loss = make("llama")
    opt = zoft.ZOOptimizer(model, 0.1, CONFIG)
    opt.step(loss)
    before, held = digest(model), dict(model.named_parameters())

    def fails() -> torch.Tensor:
        loss()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opt.step(fails)
    assert digest(model) == before
    assert all(parameter is held[name] for name, parameter in model.named_parameters())


class Bypassed(nn.Module):
    """Reads a weight past the module that holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.alias = [self.linear.weight]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.alias[0] + self.linear.bias).square().mean()


def test_a_weight_that_carries_no_tangent_is_an_error() -> None:
    model, x = Bypassed(), torch.randn(3, 4)
    with pytest.raises(PlacementError, match=r"'dual' does not reach some parameter.*Use a method that only evaluates"):
        zoft.ZOOptimizer(model, 0.1, CONFIG).step(lambda: model(x))


def test_a_loss_without_a_derivative_is_an_error() -> None:
    model, x = nn.Linear(4, 1), torch.randn(3, 4)
    for loss in (lambda: model(x).mean().detach(), lambda: torch.tensor(model(x).mean().item())):
        with pytest.raises(PlacementError, match="the loss carries no derivative: the closure detaches it"):
            zoft.ZOOptimizer(model, 0.1, CONFIG).step(loss)


class Opaque(torch.autograd.Function):
    """An operation that can only be differentiated backwards."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.exp()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def test_an_operation_without_a_forward_mode_is_named() -> None:
    model, x = nn.Linear(4, 1), torch.randn(3, 4)
    with pytest.raises(PlacementError, match=r"cannot be differentiated in forward mode.*Use a method that only"):
        zoft.ZOOptimizer(model, 0.1, CONFIG).step(lambda: Opaque.apply(model(x)).mean())


@pytest.mark.parametrize("placement", ["stream", "snapshot", "inplace"])
def test_a_placement_for_moved_weights_is_refused(placement: str) -> None:
    with pytest.raises(ConfigError, match=f"placement must be 'auto', got '{placement}'"):
        zoft.ZOOptimizer(nn.Linear(4, 1), 0.1, zoft.ZOConfig(method="forward_grad", placement=placement))


def test_a_nan_loss_is_reported() -> None:
    model, x = nn.Linear(4, 1), torch.randn(3, 4)
    opt = zoft.ZOOptimizer(model, 0.1, CONFIG)
    opt.step(lambda: model(x).mean())
    with pytest.raises(zoft.errors.NonFiniteLossError, match="loss of query 0 is nan at step 1"):
        opt.step(lambda: model(x).mean() * float("nan"))
