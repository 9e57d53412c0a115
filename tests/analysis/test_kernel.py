"""Kernels: closed forms against draws of zoft's own directions, and two ways to differentiate."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.analysis.problems import batch, gradients, linear, network, relative
from zoft.analysis.nzk import (
    KINDS,
    MOMENTS,
    Moments,
    empirical_kernel,
    expected_kernel,
    kernel_variance,
    tangent_kernel,
)
from zoft.analysis.nzk.moments import Array
from zoft.analysis.nzk.outputs import Outputs, inner
from zoft.errors import ConfigError
from zoft.parameters import select
from zoft.types import ZOConfig

GRADIENTS = np.array([[1.0, 0.2], [0.3, 1.5], [-0.4, 0.8], [0.9, -1.1]])  # gradients of four outputs in two weights


def draws_of(kind: str, g: Array, z: Array, zeta: Array) -> Array:
    """The kernel of each draw, ``[m, n, n]``, from its definition."""
    ahead = {"step": z, "shared": z, "independent": zeta}[kind]
    weight = {"step": np.ones(len(z)), "shared": (z * z).sum(1), "independent": (zeta * z).sum(1)}[kind]
    kernels: Array = np.einsum("s,si,sj->sij", weight, ahead @ g.T, z @ g.T)
    return kernels


# --- closed forms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("distribution", list(MOMENTS))
@pytest.mark.parametrize("dimension", [3, 17])
def test_the_average_over_zofts_directions_is_the_closed_form_to_two_percent(
    kind: str, distribution: str, dimension: int
) -> None:
    x, _ = batch(3, dimension - 1)
    x *= 0.2  # the bias then carries most of the kernel: the fewer directions do, the fewer draws find it
    kernel = empirical_kernel(
        linear(dimension - 1),
        x,
        kind=kind,
        num_draws=16_000,
        chunk_size=1000,
        config=ZOConfig(method="mezo", distribution=distribution),
    )
    gram = gradients(x) @ gradients(x).T
    assert relative(kernel, expected_kernel(kind, gram, dimension, MOMENTS[distribution])) < 0.02


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "values",
    [(-1.0, 0.0, 2.0), (0.0, 1.0, 3.0), (-2.0, -2.0, 1.0)],
    ids=["little mean", "mean above zero", "mean below zero"],
)
def test_every_moment_counts_as_the_closed_form_says(kind: str, values: tuple[float, ...]) -> None:
    """Exactly: all draws of a three-valued z and zeta in two dimensions are enumerated, none is sampled."""
    single = np.array(values)
    moments = Moments(*(float((single**k).mean()) for k in (1, 2, 3, 4)))
    z = np.stack(np.meshgrid(single, single), axis=-1).reshape(-1, 2)
    z_all, zeta_all = np.repeat(z, len(z), axis=0), np.tile(z, (len(z), 1))
    mean = draws_of(kind, GRADIENTS, z_all, zeta_all).mean(0)
    gram = GRADIENTS @ GRADIENTS.T
    np.testing.assert_allclose(mean, expected_kernel(kind, gram, 2, moments, GRADIENTS.sum(1)), rtol=1e-12, atol=1e-12)


def test_a_rademacher_direction_has_the_squared_length_d_so_sharing_multiplies_by_exactly_d() -> None:
    """Draw by draw, not only on average: no other distribution has that."""
    x, _ = batch(4, 8)
    for seed in range(3):
        config = ZOConfig(method="mezo", distribution="rademacher", seed=seed)
        shared, step = (empirical_kernel(linear(8), x, kind=k, num_draws=1, config=config) for k in ("shared", "step"))
        np.testing.assert_allclose(shared, 9 * step, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_variance_of_one_gaussian_draw_is_the_closed_form(kind: str) -> None:
    generator = np.random.default_rng(0)
    z, zeta = generator.standard_normal((2, 400_000, 2))
    variance = draws_of(kind, GRADIENTS, z, zeta).var(0)
    assert (
        relative(variance, kernel_variance(kind, GRADIENTS @ GRADIENTS.T, 2)) < 0.06
    )  # sixth to twelfth moments: slow


def test_impossible_moments_and_unknown_kinds_are_refused() -> None:
    gram = np.eye(2)
    with pytest.raises(ConfigError, match="m4 at least m2"):
        Moments(0.0, 1.0, 0.0, 0.5)
    with pytest.raises(ConfigError, match="positive semi-definite"):
        Moments(0.0, 1.0, 5.0, 2.0)  # m4 must be at least 1 + 5^2
    Moments(0.0, 1.0, 5.0, 26.0)
    with pytest.raises(ConfigError, match="Did you mean 'shared'"):
        expected_kernel("share", gram, 2, MOMENTS["gaussian"])
    with pytest.raises(ConfigError, match="needs sums"):
        expected_kernel("step", gram, 2, Moments(1.0, 2.0, 3.0, 10.0))


# --- measured -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_finite_differences_agree_with_forward_mode(kind: str) -> None:
    x, _ = batch(5, 4)
    exact, differences = (
        empirical_kernel(network(4), x, kind=kind, num_draws=8, zo_eps=zo_eps) for zo_eps in (None, 1e-4)
    )
    assert 0.0 < relative(differences, exact) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk_size", [1, 4, 10])
def test_a_chunk_of_one_is_the_definition_and_a_larger_one_pairs_every_zeta_with_every_z(
    kind: str, chunk_size: int
) -> None:
    x, _ = batch(5, 4)
    outputs = Outputs.of(linear(4), ZOConfig(method="mezo"))
    z, zeta = (
        np.concatenate([part.flatten(1).numpy() for part in outputs.draw([(s, query) for s in range(10)]).values()], 1)
        for query in (0, 1)
    )
    pairs = [(s, t) for s in range(10) for t in range(10) if s == t or (s // chunk_size == t // chunk_size)]
    if kind != "independent":
        pairs = [(s, s) for s in range(10)]
    g = gradients(x)
    weights = np.array([1.0 / min(chunk_size, 10 - t // chunk_size * chunk_size) for _, t in pairs])
    if kind != "independent":
        weights = np.ones(10)
    every = draws_of(kind, g, z[[t for _, t in pairs]], zeta[[s for s, _ in pairs]])
    want = np.einsum("p,pij->ij", weights, every) / 10
    got = empirical_kernel(outputs.model, x, kind=kind, num_draws=10, chunk_size=chunk_size)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def test_the_tangent_kernel_is_the_product_of_gradients() -> None:
    x, _ = batch(5, 4)
    model = network(4)
    rows = []
    for row in x:
        model.zero_grad()
        model(row[None]).sum().backward()
        rows.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    jacobian = torch.stack(rows).numpy()
    np.testing.assert_allclose(tangent_kernel(model, x), jacobian @ jacobian.T, rtol=1e-12)


def test_directions_are_those_that_the_run_trains_with() -> None:
    """What the engine adds to the weights at step 7 is what the kernel's draw 7 differentiates along."""
    from zoft.engine import ZOEngine
    from zoft.noise import Term
    from zoft.placement import SnapshotPlacement

    model, config = network(4), ZOConfig(method="lozo", seed=5, placement="snapshot")
    trainables = select(model)
    engine = ZOEngine(model, config, trainables, [0] * len(trainables), [0.0])
    drawn = Outputs.of(model, config).draw([(7, 0)])
    before = {t.name: t.parameter.detach().clone() for t in trainables}
    placement = SnapshotPlacement(trainables, engine.directions)
    with torch.no_grad(), placement.session(), placement.at([Term(7, 0, 1.0)]):
        for t in trainables:
            torch.testing.assert_close(t.parameter.detach() - before[t.name], drawn[t.name][0])


def test_no_tensor_has_a_number_for_each_example_and_weight() -> None:
    """30 examples, 6,451 weights: a Jacobian would be 193,530 numbers; a pair of directions is 12,902."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for value in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(value, torch.Tensor):
                    largest = max(largest, value.numel())
            return out

    x, _ = batch(30, 40)
    model = network(40, hidden=150)
    dimension = sum(p.numel() for p in model.parameters())
    with Watch():
        for kind in KINDS:
            empirical_kernel(model, x, kind=kind, num_draws=4, chunk_size=2)
        tangent_kernel(model, x)
    assert 2 * dimension > largest >= dimension - 151  # the hidden layer's weights, twice


def test_a_model_without_one_output_a_row_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"one number for each of the 5 rows, got \(5, 2\)"):
        empirical_kernel(nn.Linear(3, 2), torch.zeros(5, 3), kind="shared", num_draws=1)
    with pytest.raises(ConfigError, match="num_draws must be an integer >= 1, got 0"):
        empirical_kernel(nn.Linear(3, 1), torch.zeros(5, 3), kind="shared", num_draws=0)
    with pytest.raises(ConfigError, match="zo_eps must be > 0, got 0"):
        empirical_kernel(nn.Linear(3, 1), torch.zeros(5, 3), kind="shared", num_draws=1, zo_eps=0.0)


class _Unread(nn.Module):
    """A network with a weight that its output does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.unread = network(4), nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.network(x)
        return out


def test_the_tangent_kernel_is_of_the_trained_weights_alone_read_or_not() -> None:
    x, _ = batch(5, 4)
    whole = tangent_kernel(network(4), x)
    np.testing.assert_allclose(tangent_kernel(_Unread(), x), whole)
    first, last = (tangent_kernel(network(4), x, ZOConfig(include=(pattern,))) for pattern in ("0.*", "2.*"))
    np.testing.assert_allclose(first + last, whole)


def test_the_documentations_example_runs_and_its_two_kernels_are_of_one_size() -> None:
    text = (Path(__file__).parents[2] / "docs" / "nzk.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    scope = {"model": linear(4), "x": batch(5, 4)[0], "d": 5}
    exec(code, scope)
    assert np.trace(scope["measured"]) == pytest.approx(np.trace(scope["theory"]), rel=0.2)  # type: ignore[call-overload]


def test_inner_products_are_over_all_parameters() -> None:
    outputs = Outputs.of(network(4), ZOConfig(method="mezo", distribution="rademacher"))
    z = outputs.draw([(0, 0), (1, 0)])
    np.testing.assert_allclose(inner(z, z).diagonal(), 2 * [outputs.dimension])
