"""What every registered method owes: an unbiased linear part, determinism, and a loss that falls.

Parametrised over the registry: a new file in ``zoft/methods`` is tested here without being named.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import zoft
import zoft.methods
from tests.core.conftest import make
from tests.core.runs import batch, digest, start
from zoft.errors import ConfigError
from zoft.method import build_method
from zoft.noise import Span, Term
from zoft.registry import method_names, registration

METHODS = method_names()
# Learning rates for the small problems below; a method that is not here starts from the first value.
LOGISTIC_LR = {"mezo": 0.3, "fzoo": 0.03}
LLAMA_LR = {"mezo": 1e-2, "fzoo": 2e-2}


def method_of(name: str, **options: Any) -> Any:
    return build_method(zoft.ZOConfig(method=name, **options))


# --- the contract --------------------------------------------------------------------------------------


def test_each_file_registers_one_method_of_its_own_name() -> None:
    files = {module.name for module in pkgutil.iter_modules(zoft.methods.__path__)}
    assert files == set(METHODS)
    for name in METHODS:
        text = importlib.import_module(f"zoft.methods.{name}").__doc__
        assert text is not None and re.search(r"arXiv \d{4}\.\d{4,5}", text), "the docstring is the citation"
        assert "Published settings" in text and "Forwards a step" in text and "State beyond inference" in text


@pytest.mark.parametrize("name", METHODS)
def test_options_are_a_frozen_dataclass_and_unknown_ones_are_refused(name: str) -> None:
    options = registration(name).options
    assert dataclasses.is_dataclass(options) and options.__dataclass_params__.frozen  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=f"method '{name}' has no option 'no_such'"):
        method_of(name, method_kwargs={"no_such": 1})


@pytest.mark.parametrize("name", METHODS)
def test_defaults_are_filled_in_and_explicit_settings_win(name: str) -> None:
    config = method_of(name).config
    assert None not in (config.zo_eps, config.num_queries, config.distribution)
    config = method_of(name, zo_eps=0.5, num_queries=5, distribution="gaussian").config
    assert (config.zo_eps, config.num_queries, config.distribution) == (0.5, 5, "gaussian")


@pytest.mark.parametrize(
    ("name", "eps", "queries", "distribution", "forwards"),
    [("mezo", 1e-3, 1, "gaussian", 2), ("fzoo", 1e-4, 8, "rademacher", 9)],
)
def test_published_defaults(name: str, eps: float, queries: int, distribution: str, forwards: int) -> None:
    method = method_of(name)
    assert (method.config.zo_eps, method.config.num_queries) == (eps, queries)
    assert (method.config.distribution, method.estimator.forwards) == (distribution, forwards)


def test_unknown_names_are_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"method 'mezzo' is unknown. Did you mean 'mezo'\? Known: "):
        method_of("mezzo")
    with pytest.raises(ConfigError, match="distribution must be one of gaussian, rademacher, got 'cauchy'"):
        method_of("mezo", distribution="cauchy")
    with pytest.raises(ConfigError, match="fzoo needs num_queries >= 2"):
        method_of("fzoo", num_queries=1)


@pytest.mark.parametrize("name", METHODS)
def test_the_estimate_is_linear_in_the_losses(name: str) -> None:
    """So that micro-batches and ranks add up."""
    estimator = method_of(name, num_queries=4).estimator
    assert len(estimator.points(0)) == estimator.forwards
    losses = np.random.default_rng(0).normal(size=(2, estimator.forwards))
    a, b = (estimator.estimate(list(row)) for row in losses)
    mixed = estimator.estimate(list(0.3 * losses[0] + 0.7 * losses[1]))
    assert len(mixed.scalars) == estimator.num_scalars
    expected = 0.3 * np.array([a.loss, *a.scalars]) + 0.7 * np.array([b.loss, *b.scalars])
    np.testing.assert_allclose([mixed.loss, *mixed.scalars], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_points_and_gradient_use_the_steps_own_directions(name: str) -> None:
    method = method_of(name, num_queries=3)
    for step in (0, 7):
        assert {t.step for p in method.estimator.points(step) for t in p.terms} == {step}
    terms = method.update.gradient(5, [1.0, -2.0, 0.5])
    assert {(t.step, t.query) for t in terms} == {(5, 0), (5, 1), (5, 2)}


@pytest.mark.parametrize("name", METHODS)
def test_equal_losses_move_nothing(name: str) -> None:
    run = start(method=name, lr=1.0, placement="snapshot")
    before = digest(run.model)
    run.opt.step(lambda: torch.tensor(2.5))
    assert run.opt.last_record is not None and run.opt.last_record.loss == 2.5
    assert digest(run.model) == before


def test_the_step_of_fzoo_does_not_depend_on_the_scale_of_the_loss() -> None:
    moved, ids = [], batch(0)
    for scale in (1.0, 1024.0):
        run = start(method="fzoo", lr=1e-2)
        run.opt.step(lambda r=run, s=scale: s * r.model(input_ids=ids, labels=ids).loss)  # type: ignore[misc]
        moved.append(digest(run.model))
    assert moved[0] == moved[1]


# --- the estimator is unbiased -------------------------------------------------------------------------


class Slope(nn.Module):
    """A quadratic in float64, whose gradient is known."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(6, generator=generator, dtype=torch.float64))
        self.register_buffer("a", torch.randn(6, 6, generator=generator, dtype=torch.float64))

    def forward(self) -> torch.Tensor:
        return (self.a @ self.w).square().sum() / 2 + self.w.sum()


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
@pytest.mark.parametrize("name", METHODS)
def test_the_mean_estimate_is_the_gradient_within_four_standard_errors(name: str, distribution: str) -> None:
    model = Slope()
    queries, steps = 64, 150
    config = zoft.ZOConfig(
        method=name, num_queries=queries, zo_eps=1e-3, distribution=distribution, placement="snapshot"
    )
    engine = zoft.ZOOptimizer(model, 0.0, config).engine
    samples = []
    for step in range(steps):
        engine.step = step
        slopes = engine.method.estimator.projected_grads(engine.estimate(model).scalars)
        for query, slope in enumerate(slopes):
            z = torch.zeros(6, dtype=torch.float64)
            engine.method.directions.combine([Span(z, z, 0)], [Term(step, query, 1.0)])
            samples.append((slope * z).numpy())
    truth = (model.a.T @ model.a @ model.w.detach() + 1).numpy()
    mean, error = np.mean(samples, axis=0), np.std(samples, axis=0) / np.sqrt(len(samples))
    assert np.all(np.abs(mean - truth) <= 4 * error), (mean, truth, error)
    assert np.all(error < 0.1 * np.abs(truth).max()), "too few samples to tell"


# --- it learns -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_logistic_regression_is_learned(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(10, generator=generator)
    inputs = torch.randn(512, 10, generator=generator)
    labels = (inputs @ truth > 0).float()
    model = nn.Linear(10, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    opt = zoft.ZOOptimizer(model, LOGISTIC_LR.get(name, 0.3), zoft.ZOConfig(method=name))

    def loss(rows: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(model(inputs[rows]).squeeze(-1), labels[rows])

    for step in range(200):
        rows = torch.randint(0, 512, (64,), generator=torch.Generator().manual_seed(step))
        opt.step(lambda rows=rows: loss(rows))  # type: ignore[misc]
    with torch.no_grad():
        final = float(loss(torch.arange(512)))
        right = ((model(inputs).squeeze(-1) > 0) == (labels > 0)).float().mean()
    assert final < 0.35 < np.log(2) and right > 0.9, (final, float(right))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", METHODS)
def test_a_tiny_llama_memorises(name: str, dtype: torch.dtype) -> None:
    model, loss = make("llama", dtype)
    config = zoft.ZOConfig(method=name, zo_eps=1e-2, num_queries=8)
    opt = zoft.ZOOptimizer(model, LLAMA_LR.get(name, 1e-2), config)
    with torch.no_grad():
        first = float(loss())
    for _ in range(60):
        opt.step(loss)
    with torch.no_grad():
        last = float(loss())
    assert last < first - 0.4, (first, last)
