"""What every registered method owes: an unbiased linear part, determinism, and a loss that falls.

Parametrised over the registry: a new file in ``zoft/methods`` is tested here without being named.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import math
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
from tests.methods import methods, plain_placement
from zoft.errors import ConfigError
from zoft.method import build_method
from zoft.noise import Span, Term
from zoft.registry import method_names, registration

METHODS = method_names()
# For the small problems below, where a method needs other values than MeZO's (0.3 and 1e-2) or its own.
LOGISTIC_LR = {
    "adam": 0.03, "adamezo": 0.03, "eggroll": 0.05, "es": 0.05, "fzoo": 0.03, "grzo": 0.03, "meazo": 0.03,
    "momentum": 0.03, "sign": 0.05, "subzero_plus": 0.1,
}  # fmt: skip
LLAMA_LR = {
    "adam": 1e-2, "adamezo": 5e-3, "conservative": 2e-2, "eggroll": 2e-2, "es": 2e-2, "fzoo": 2e-2, "grzo": 2e-2,
    "lozo_m": 5e-2, "meazo": 2e-2, "momentum": 1e-3, "newton": 3.0, "sign": 5e-3, "subspace_bfgs": 0.3,
    "subspace_newton": 1.0, "subzero_plus": 0.1,
}  # fmt: skip
SHORT: dict[str, dict[str, Any]] = {  # for problems of a few steps: subspaces that last for a few, not hundreds
    "lozo": {"period": 2},
    "lozo_m": {"period": 3},
    "subzero": {"period": 2, "rank": 4},
    "subzero_plus": {"period": 5, "rank": 4},
    "sparse_mezo": {"sparsity": 0.1},  # weights drawn at random must grow to learn anything
}


def method_of(name: str, **options: Any) -> Any:
    return build_method(zoft.ZOConfig(method=name, **options))


def short(name: str, **options: Any) -> zoft.ZOConfig:
    return zoft.ZOConfig(method=name, method_kwargs=SHORT.get(name, {}), **options)


# --- the contract --------------------------------------------------------------------------------------


def test_each_file_registers_one_method_of_its_own_name() -> None:
    files = {module.name for module in pkgutil.iter_modules(zoft.methods.__path__)}
    assert files == set(METHODS)
    for name in METHODS:
        text = " ".join((importlib.import_module(f"zoft.methods.{name}").__doc__ or "").split())
        assert re.search(r"arXiv \d{4}\.\d{4,5}", text), "the docstring is the citation"
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
    [
        ("mezo", 1e-3, 1, "gaussian", 2),
        ("fzoo", 1e-3, 8, "rademacher", 9),
        ("meazo", 1e-3, 1, "rademacher", 2),
        ("one_point_five_spsa", 1e-3, 1, "rademacher", 3),
        ("es", 1e-3, 15, "gaussian", 30),
        ("eggroll", 1e-3, 15, "gaussian", 30),
        ("lozo", 1e-3, 1, "gaussian", 2),
        ("lozo_m", 1e-3, 1, "gaussian", 2),
        ("subzero", 1e-3, 1, "gaussian", 2),
        ("subzero_plus", 1e-3, 99, "gaussian", 100),
        ("sparse_mezo", 1e-3, 1, "gaussian", 2),
        ("momentum", 1e-3, 1, "gaussian", 2),
        ("adam", 1e-3, 1, "gaussian", 2),
        ("sign", 1e-3, 1, "gaussian", 2),
        ("adamezo", 1e-3, 1, "gaussian", 2),
        ("conservative", 1e-3, 1, "gaussian", 3),
        ("hizoo", 1e-3, 1, "gaussian", 3),
        ("conmezo", 1e-3, 1, "gaussian", 2),
        ("svrg", 1e-3, 1, "gaussian", 4),
        ("grzo", 1e-3, 64, "gaussian", 2),
        ("forward_grad", 1e-3, 1, "gaussian", 2),
        ("newton", 1e-3, 1, "rademacher", 3),
        ("subspace_newton", 1e-3, 4, "rademacher", 15),
        ("subspace_bfgs", 1e-3, 4, "rademacher", 9),
    ],
)
def test_defaults_are_published_or_declared(
    name: str, eps: float, queries: int, distribution: str, forwards: int
) -> None:
    method = method_of(name)
    assert (method.config.zo_eps, method.config.num_queries) == (eps, queries)
    assert (method.config.distribution, method.estimator.forwards) == (distribution, forwards)


def test_unknown_names_are_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"method 'mezzo' is unknown. Did you mean 'mezo'\? Known: "):
        method_of("mezzo")
    with pytest.raises(ConfigError, match=r"method 'MeZO' is unknown. Did you mean 'mezo'\?"):
        method_of("MeZO")
    with pytest.raises(ConfigError, match="distribution must be one of gaussian, rademacher, got 'cauchy'"):
        method_of("mezo", distribution="cauchy")
    with pytest.raises(ConfigError, match="fzoo needs num_queries >= 2"):
        method_of("fzoo", num_queries=1)


@pytest.mark.parametrize(
    ("name", "option", "bad"),
    [
        ("fzoo", "beta", 1.0),
        ("meazo", "beta", 1.0),
        ("meazo", "epsilon", 0.0),
        ("one_point_five_spsa", "power", -0.1),
        ("es", "shaping", "rank"),
        ("eggroll", "shaping", "z"),
        ("eggroll", "rank", 0),
        ("lozo", "rank", 1.5),
        ("lozo", "period", 0),
        ("lozo_m", "period", 0),
        ("lozo_m", "rank", 0),
        ("lozo_m", "beta", 1.0),
        ("subzero", "rank", True),
        ("subzero", "period", -1),
        ("subzero_plus", "rank", 0),
        ("subzero_plus", "period", 2.0),
        ("subzero_plus", "beta2", 1.0),
        ("subzero_plus", "epsilon", 0.0),
        ("sparse_mezo", "sparsity", 1.0),
        ("momentum", "beta", -0.1),
        ("adam", "beta1", 1.0),
        ("adam", "beta2", float("nan")),
        ("adam", "epsilon", 0.0),
        ("adamezo", "horizon", 0),
        ("adamezo", "beta1", 1.0),
        ("adamezo", "epsilon", -1.0),
        ("hizoo", "alpha", 0.0),
        ("conmezo", "angle", 0.0),
        ("conmezo", "beta", 1.0),
        ("svrg", "period", 0),
        ("newton", "damping", 0.0),
        ("subspace_newton", "solver", "lu"),
        ("subspace_newton", "iterations", 0),
        ("subspace_bfgs", "beta", 1.0),
    ],
)
def test_options_out_of_range_are_named_and_shown(name: str, option: str, bad: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{option}.* must be .*got {re.escape(repr(bad))}\."):
        method_of(name, method_kwargs={option: bad})


@pytest.mark.parametrize(
    ("name", "option", "kind"),
    [(name, o.name, o.type) for name in METHODS for o in dataclasses.fields(registration(name).options)],
)
def test_options_of_another_kind_are_named_and_shown(name: str, option: str, kind: str) -> None:
    for bad in {"float": ["0.9", math.inf, None, True], "int": ["2", 2.0, None], "str": [["ranks"], None, 1]}[kind]:
        with pytest.raises(ConfigError, match=rf"{option} of {name} must be .*got {re.escape(repr(bad))}"):
            method_of(name, method_kwargs={option: bad})


def test_a_mask_on_the_weights_is_refused_where_they_move() -> None:
    with pytest.raises(ConfigError, match="placement='inplace' moves"):
        method_of("sparse_mezo", placement="inplace")


@pytest.mark.parametrize("name", METHODS)
def test_the_estimate_is_linear_in_the_losses(name: str) -> None:
    """So that micro-batches and ranks add up."""
    estimator = method_of(name, num_queries=4).estimator
    losses = np.random.default_rng(0).normal(size=(2, sum(p.num_values for p in estimator.points(0))))
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
    scalars = [1.0, -2.0, 0.5, 3.0, 0.25, -1.5, 0.75, 0.1, -0.2][: method.estimator.num_scalars]
    evaluated = {(t.step, t.query) for p in method.estimator.points(5) for t in p.terms}
    terms = method.update.gradient(5, scalars)
    assert {(t.step, t.query) for t in terms} == evaluated and (5, 2) in evaluated


@pytest.mark.parametrize("name", METHODS)
def test_equal_losses_move_nothing(name: str) -> None:
    run = start(method=name, lr=1.0, placement=plain_placement(name))
    before = digest(run.model)
    run.opt.step(lambda: 0.0 * run.model(input_ids=batch(0), labels=batch(0)).loss + 2.5)
    assert run.opt.last_record is not None and run.opt.last_record.loss == 2.5
    assert digest(run.model) == before


@pytest.mark.parametrize("name", METHODS)
def test_what_stays_in_memory_after_a_step_is_what_the_method_says(name: str) -> None:
    start(method=name, placement=plain_placement(name)).steps(0, 1)  # what is made once for all runs
    run = start(method=name, placement=plain_placement(name))
    before = storages()
    run.steps(0, 2)
    after = storages()
    engine = run.opt.engine
    said = sum(engine.method.state_size(t.stored().shape) for t in engine.trainables)
    assert sum(size for place, size in after.items() if place not in before) == 4 * said


def storages() -> dict[int, int]:
    """Bytes of every tensor of floating-point numbers that is alive, by address."""
    gc.collect()
    tensors = [t for t in gc.get_objects() if type(t) in (torch.Tensor, nn.Parameter) and t.is_floating_point()]
    stored = [t.untyped_storage() for t in tensors]
    return {storage.data_ptr(): storage.nbytes() for storage in stored}


def test_the_step_of_fzoo_does_not_depend_on_the_scale_of_the_loss() -> None:
    moved, ids = [], batch(0)
    for scale in (1.0, 1024.0):
        run = start(method="fzoo", lr=1e-2)
        run.opt.step(lambda r=run, s=scale: s * r.model(input_ids=ids, labels=ids).loss)  # type: ignore[misc]
        moved.append(digest(run.model))
    assert moved[0] == moved[1]


# --- the estimator is unbiased -------------------------------------------------------------------------


class Slope(nn.Module):
    """A quadratic of a matrix, in float64, whose gradient is known."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(2, 3, generator=generator, dtype=torch.float64))
        self.register_buffer("a", torch.randn(6, 6, generator=generator, dtype=torch.float64))

    def forward(self) -> torch.Tensor:
        return (self.a @ self.w.flatten()).square().sum() / 2 + self.w.sum()


FRESH: dict[str, dict[str, Any]] = {  # another subspace in every step
    "lozo": {"period": 1},
    "lozo_m": {"period": 1},
    "subzero": {"period": 1, "rank": 2},
    "subzero_plus": {"period": 1, "rank": 2},
}


def direction(engine: Any, step: int, query: int) -> torch.Tensor:
    """z of the model's only parameter, as it is added to it."""
    base = engine.trainables[0].parameter.detach()
    out = torch.empty_like(base)
    engine.directions.combine([Span(out, base, 0)], [Term(step, query, 1.0)])
    return out - base


OWN_DISTRIBUTION = [  # a few steps tell a wrong factor, a wrong direction
    pytest.param(name, method_of(name).config.distribution, 100, id=name) for name in METHODS
]
EACH_DISTRIBUTION = [  # many tell a bias of an eighth
    pytest.param(name, distribution, 400, id=f"{name}-{distribution}", marks=pytest.mark.slow)
    for name in METHODS
    for distribution in ("gaussian", "rademacher")
]


@pytest.mark.parametrize(("name", "distribution", "steps"), [*OWN_DISTRIBUTION, *EACH_DISTRIBUTION])
def test_the_mean_estimate_is_the_gradient_within_four_standard_errors(
    name: str, distribution: str, steps: int
) -> None:
    """Of the elements that the method trains: Sparse MeZO leaves large weights alone."""
    model = Slope()
    config = zoft.ZOConfig(
        method=name,
        num_queries=16,
        zo_eps=1e-3,
        distribution=distribution,
        placement=plain_placement(name),
        shared_vector="window:1",
        method_kwargs=FRESH.get(name, {}),
    )
    engine = zoft.ZOOptimizer(model, 0.0, config).engine
    samples = []
    for step in range(steps):
        engine.step = step
        slopes = engine.method.estimator.projected_grads(engine.estimate(model).scalars)
        pairs = [(slope * direction(engine, step, query)).numpy() for query, slope in enumerate(slopes)]
        # Queries of a step may share a factor; steps share nothing.
        samples.append(np.mean(pairs, axis=0))
    truth = (model.a.T @ model.a @ model.w.detach().flatten() + 1).view(2, 3).numpy()
    trained = (np.abs(samples).sum(axis=0) > 0).astype(float)
    mean, error = np.mean(samples, axis=0), np.std(samples, axis=0) / np.sqrt(len(samples))
    assert np.all(np.abs(mean - truth * trained) <= 4 * error + 1e-9), (mean, truth, error)
    assert np.all(error < 0.2 * np.abs(truth).max()), "too few samples to tell"
    if name == "sparse_mezo":
        assert trained.sum() == 2, "a quarter of six, rounded up"
    else:
        assert trained.all()


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
    opt = zoft.ZOOptimizer(model, LOGISTIC_LR.get(name, 0.3), short(name))

    def loss(rows: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(model(inputs[rows]).squeeze(-1), labels[rows])

    for step in range(200):
        rows = torch.randint(0, 512, (64,), generator=torch.Generator().manual_seed(step))
        opt.step(lambda rows=rows: loss(rows))  # type: ignore[misc]
    with torch.no_grad():
        final = float(loss(torch.arange(512)))
        right = ((model(inputs).squeeze(-1) > 0) == (labels > 0)).float().mean()
    assert final < 0.35 < np.log(2) and right > 0.9, (final, float(right))


@pytest.mark.parametrize(
    "dtype", [pytest.param(torch.float32, id="fp32", marks=pytest.mark.slow), pytest.param(torch.bfloat16, id="bf16")]
)
@pytest.mark.parametrize("name", methods())
def test_a_tiny_llama_memorises(name: str, dtype: torch.dtype) -> None:
    model, loss = make("llama", dtype)
    config = short(name, zo_eps=1e-2, num_queries=8)
    opt = zoft.ZOOptimizer(model, LLAMA_LR.get(name, 1e-2), config)
    with torch.no_grad():
        first = float(loss())
    for _ in range(60):
        opt.step(loss)
    with torch.no_grad():
        last = float(loss())
    assert last < first - 0.4, (first, last)
