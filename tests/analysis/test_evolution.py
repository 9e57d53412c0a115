"""Theory against training: linear models follow the closed forms, and sharing z is a larger step and no more."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.analysis.problems import batch, linear, network, relative, residuals
from zoft.analysis.nzk import (
    MOMENTS,
    RULES,
    Linearised,
    empirical_kernel,
    expected_kernel,
    expected_losses,
    expected_residuals,
    loss_floor,
    rule_named,
    stability_limit,
    tangent_kernel,
    train,
    tuned_lr,
)
from zoft.analysis.nzk.moments import Array
from zoft.errors import ConfigError, NonFiniteLossError
from zoft.optim import ZOOptimizer
from zoft.types import ZOConfig

STEPS = (0, 20, 60, 150)


class Problem:
    """A model, a batch, and the kernel and residuals at the start."""

    def __init__(self, model: nn.Module, num_examples: int = 16, width: int = 6) -> None:
        self.model = model
        self.x, self.y = batch(num_examples, width)
        self.gram = tangent_kernel(model, self.x)
        self.residuals = residuals(model, self.x, self.y)
        self.dimension = sum(p.numel() for p in model.parameters() if p.requires_grad)

    def limit(self, rule: str) -> float:
        return stability_limit(self.gram, rule=rule, dimension=self.dimension)

    def expected(self, rule: str, lr: float, num_steps: int = STEPS[-1]) -> Array:
        return expected_losses(
            self.gram, self.residuals, rule=rule, dimension=self.dimension, lr=lr, num_steps=num_steps
        )

    def losses(self, rule: str, lr: float, seeds: int, distribution: str = "gaussian") -> Array:
        """Losses at STEPS, one row a seed."""
        return np.array(
            [
                [
                    loss
                    for _, loss in train(
                        copy.deepcopy(self.model),
                        self.x,
                        self.y,
                        rule=rule,
                        lr=lr,
                        record_at=STEPS,
                        seed=seed,
                        distribution=distribution,
                    )
                ]
                for seed in range(seeds)
            ]
        )


@pytest.fixture
def problem() -> Problem:
    return Problem(linear(6))


# --- training follows theory ----------------------------------------------------------------------------


def test_one_run_of_the_optimizer_follows_the_closed_form_to_three_percent(problem: Problem) -> None:
    """Plain zoft training, no average over seeds: at 1/50 of the stable step, noise hardly shows."""
    lr = problem.limit("mezo") / 50
    model = copy.deepcopy(problem.model)
    optimizer = ZOOptimizer(model, lr, ZOConfig(method="mezo", seed=1, placement="snapshot"))
    measured = []
    for _ in range(600):
        measured.append(float((residuals(model, problem.x, problem.y) ** 2).mean() / 2))
        optimizer.step(lambda: (model(problem.x).reshape(-1) - problem.y).square().mean() / 2)
    expected = problem.expected("mezo", lr, 599)
    assert measured[-1] < 0.8 * measured[0]
    np.testing.assert_allclose(measured, expected, rtol=0.03)


@pytest.mark.parametrize("rule", list(RULES))
def test_the_mean_loss_over_seeds_is_the_closed_form(rule: str, problem: Problem) -> None:
    """At a step where noise matters: it costs a third of the fall. To four standard errors, and 10%."""
    lr = problem.limit("mezo" if rule == "per_example" else rule) / 3
    losses = problem.losses(rule, lr, seeds=10)
    expected = problem.expected(rule, lr)[list(STEPS)]
    errors = losses.std(0, ddof=1) / np.sqrt(len(losses))
    assert np.all(np.abs(losses.mean(0) - expected) <= 4 * errors + 1e-12)
    assert np.all(np.abs(losses.mean(0) / expected - 1) < 0.1)


@pytest.mark.parametrize("distribution", list(MOMENTS))
def test_mean_residuals_follow_the_expected_kernel(distribution: str, problem: Problem) -> None:
    kernel = expected_kernel("shared", problem.gram, problem.dimension, MOMENTS[distribution])
    lr = problem.limit("nzk_shared") / 8
    ends = []
    for seed in range(20):
        model = copy.deepcopy(problem.model)
        for _ in train(
            model,
            problem.x,
            problem.y,
            rule="nzk_shared",
            lr=lr,
            record_at=[60],
            seed=seed,
            distribution=distribution,
        ):
            ends.append(residuals(model, problem.x, problem.y))
    (expected,) = expected_residuals(kernel, problem.residuals, lr, [60])
    assert relative(expected, problem.residuals) > 0.2  # it moved
    assert relative(np.mean(ends, axis=0), expected) < 0.03


def test_the_expected_loss_is_more_than_that_of_the_expected_residuals_by_the_noise_of_z(problem: Problem) -> None:
    lr = problem.limit("mezo") / 4
    mean = expected_residuals(problem.gram, problem.residuals, lr, STEPS)
    without_noise = (mean**2).mean(1) / 2
    with_noise = problem.expected("mezo", lr)[list(STEPS)]
    assert with_noise[0] == pytest.approx(without_noise[0])
    assert np.all(with_noise[1:] > without_noise[1:])


def test_with_rademacher_vectors_the_mean_loss_stays_below_the_gaussian_closed_form(problem: Problem) -> None:
    lr = problem.limit("mezo") / 2
    losses = problem.losses("mezo", lr, 10, "rademacher")
    errors = losses.std(0, ddof=1) / np.sqrt(10)
    assert np.all(losses.mean(0) <= problem.expected("mezo", lr)[list(STEPS)] + 2 * errors)


def test_rule_mezo_is_the_optimizer_bit_for_bit(problem: Problem) -> None:
    ours, theirs = copy.deepcopy(problem.model), copy.deepcopy(problem.model)
    list(train(ours, problem.x, problem.y, rule="mezo", lr=1e-3, record_at=[7], seed=3))
    optimizer = ZOOptimizer(theirs, 1e-3, ZOConfig(method="mezo", seed=3, placement="snapshot"))
    for _ in range(7):
        optimizer.step(lambda: (theirs(problem.x).reshape(-1) - problem.y).square().mean() / 2)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other) and not torch.equal(mine, problem.model.get_parameter("weight"))


@pytest.mark.parametrize("rule", list(RULES))
def test_a_step_is_the_rules_formula(rule: str, problem: Problem) -> None:
    """Written again from its definition, with gradients in place of finite differences."""
    from zoft.analysis.nzk.outputs import Outputs

    model = copy.deepcopy(problem.model)
    list(train(model, problem.x, problem.y, rule=rule, lr=0.01, record_at=[1], seed=2))
    moved = np.concatenate(
        [(b - a).detach().flatten() for a, b in zip(problem.model.parameters(), model.parameters(), strict=True)]
    )

    outputs = Outputs.of(problem.model, ZOConfig(method="mezo", seed=2))
    draws = outputs.draw([(0, k) for k in range(16)])
    z = np.concatenate([part.flatten(1).numpy() for part in draws.values()], axis=1)
    g = np.c_[problem.x.numpy(), np.ones(16)]
    h = g.T @ problem.residuals / 16
    update = {
        "mezo": (z[0] @ h) * z[0],
        "per_example": np.mean([r * (zj @ gj) * zj for r, zj, gj in zip(problem.residuals, z, g, strict=True)], axis=0),
        "nzk_independent": (z[0] @ h) * (z[1] @ z[0]) * z[1],
        "nzk_shared": (z[0] @ h) * (z[0] @ z[0]) * z[0],
    }[rule]
    np.testing.assert_allclose(moved, -0.01 * update, rtol=1e-5, atol=1e-9)


# --- sharing one vector ---------------------------------------------------------------------------------


def test_sharing_takes_d_plus_2_times_fewer_steps_at_an_equal_step_and_none_fewer_than_mezo_when_tuned() -> None:
    problem = Problem(linear(30), num_examples=16, width=30)
    d = problem.dimension
    equal = problem.limit("nzk_shared") / 100
    fast = problem.expected("nzk_shared", equal, 100)[-1]
    for slow in ("mezo", "nzk_independent"):
        losses = problem.expected(slow, equal, 120 * (d + 2))
        assert np.argmax(losses <= fast) / 100 == pytest.approx(d + 2, rel=0.03)
    tuned = {}
    for rule in ("mezo", "nzk_shared", "nzk_independent"):
        lr = tuned_lr(lambda rate, rule=rule: float(problem.expected(rule, rate, 300)[-1]), problem.limit(rule) / 2)
        tuned[rule] = problem.expected(rule, lr, 300)
    # |z|^2 varies, which costs a little.
    assert 0.75 < np.argmax(tuned["mezo"] <= tuned["nzk_shared"][-1]) / 300 < 1.0
    # A second vector is noise, which no step size removes.
    assert np.argmax(tuned["nzk_shared"] <= tuned["nzk_independent"][-1]) / 300 < 3 / d


def test_sharing_with_rademacher_vectors_is_mezo_at_d_times_the_step(problem: Problem) -> None:
    """The same weights: all of the acceleration is the step size."""
    shared = problem.losses("nzk_shared", 1e-3, 1, "rademacher")
    mezo = problem.losses("mezo", 1e-3 * problem.dimension, 1, "rademacher")
    np.testing.assert_allclose(shared, mezo, rtol=1e-6)


def test_in_training_too_the_equal_step_advantage_is_d_plus_2_steps_for_one(problem: Problem) -> None:
    d = problem.dimension
    equal = problem.limit("nzk_shared") / 40
    fast = problem.losses("nzk_shared", equal, 6).mean(0)
    slow = problem.losses("mezo", equal * (d + 2), 6).mean(0)  # the step size alone
    np.testing.assert_allclose(fast, slow, rtol=0.03)
    assert problem.losses("mezo", equal, 2).mean(0)[-1] > 1.05 * fast[-1]


def test_one_vector_for_the_batch_has_no_noise_left_at_the_floor_and_one_for_each_example_has(problem: Problem) -> None:
    floor = loss_floor(problem.gram, problem.residuals)
    lr = problem.limit("mezo") / 4
    assert floor > 0.05
    batch_wide, per_example = (problem.expected(rule, lr, 6000)[-1] for rule in ("mezo", "per_example"))
    assert batch_wide == pytest.approx(floor, rel=1e-3)
    assert per_example > 1.03 * floor


def test_rounding_does_not_grow_in_the_recursion_for_vectors_of_each_example() -> None:
    """On a kernel whose largest eigenvalue is most of its trace, where it once did."""
    problem = Problem(linear(6))
    gram = problem.gram + 200.0
    for lr in (0.2, 0.4, 0.8):
        losses = expected_losses(
            gram, problem.residuals, rule="per_example", dimension=7, lr=lr * 32 / np.trace(gram), num_steps=6000
        )
        assert np.all(losses >= loss_floor(gram, problem.residuals))


# --- step sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["mezo", "nzk_independent", "nzk_shared"])
def test_the_mean_loss_falls_below_the_stability_limit_and_grows_above_it(rule: str, problem: Problem) -> None:
    below, above = (problem.expected(rule, f * problem.limit(rule), 5000) for f in (0.97, 1.03))
    assert below[-1] <= below[2500] < below[0]  # by then it may have come to its floor, to the last bit
    assert above[-1] > above[2500] > above[0]


def test_tuning_finds_the_grids_minimum_also_from_where_training_diverges() -> None:
    def final(lr: float) -> float:
        return (np.log2(lr) - 3) ** 2 if lr < 100 else float("inf")

    assert tuned_lr(final, 1.0) == pytest.approx(8.0)
    assert tuned_lr(final, 64.0) == pytest.approx(8.0)
    assert tuned_lr(final, 4096.0) == pytest.approx(8.0)


def test_divergence_is_infinite_in_theory_and_an_error_in_training(problem: Problem) -> None:
    lr = 1e30 * problem.limit("mezo")
    assert problem.expected("mezo", lr, 20)[-1] == np.inf
    with pytest.raises(NonFiniteLossError, match="Lower the learning rate"):
        list(train(copy.deepcopy(problem.model), problem.x, problem.y, rule="mezo", lr=lr, record_at=[20]))


def test_unknown_rules_and_empty_reports_are_refused(problem: Problem) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'nzk_shared'"):
        rule_named("nzk_share")
    with pytest.raises(ConfigError, match="no stability limit"):
        problem.limit("per_example")
    with pytest.raises(ConfigError, match="record_at"):
        list(train(problem.model, problem.x, problem.y, rule="mezo", lr=0.1, record_at=[]))
    with pytest.raises(
        ConfigError, match=r"y must hold one number for each of the \d+ rows of x, got shape \(\d+, 1\)"
    ):
        list(train(problem.model, problem.x, problem.y[:, None], rule="mezo", lr=0.1, record_at=[1]))
    with pytest.raises(ConfigError, match="lr must be >= 0, got -1"):
        list(train(problem.model, problem.x, problem.y, rule="mezo", lr=-1.0, record_at=[1]))
    two = nn.Linear(problem.x.shape[1], 2).double()
    with pytest.raises(ConfigError, match="the model must return one number"):
        list(train(two, problem.x, problem.y, rule="mezo", lr=0.1, record_at=[1]))
    with pytest.raises(ConfigError, match="kernel must be symmetric"):
        expected_residuals(np.array([[1.0, 0.5], [0.0, 1.0]]), np.ones(2), 0.1, [1])


@pytest.mark.parametrize("rule", RULES)
def test_training_is_in_evaluation_mode_and_leaves_the_mode_as_it_was(rule: str) -> None:
    x, y = batch(6, 4)
    model = nn.Sequential(nn.Dropout(0.5), linear(4))
    losses = [loss for _, loss in train(model, x, y, rule=rule, lr=0.0, record_at=range(4))]
    assert len(set(losses)) == 1 and model.training


def test_nothing_is_unstable_where_no_output_depends_on_the_weights() -> None:
    assert stability_limit(np.zeros((3, 3)), rule="mezo", dimension=5) == math.inf


# --- networks -------------------------------------------------------------------------------------------


def drift(model: nn.Module) -> float:
    """Relative change of the kernel, draws held fixed, over a training that halves the loss."""
    x, y = batch(16, 6)

    def kernel() -> Array:
        return empirical_kernel(model, x, kind="shared", num_draws=20, config=ZOConfig(method="mezo", seed=9))

    before = kernel()
    lr = stability_limit(tangent_kernel(model, x), rule="mezo", dimension=1) / 4
    losses = [loss for _, loss in train(model, x, y, rule="mezo", lr=lr, record_at=[0, 200])]
    assert losses[-1] < 0.8 * losses[0]
    return relative(kernel(), before)


def test_the_kernel_is_constant_for_linear_and_linearised_models_and_moves_for_a_network() -> None:
    assert drift(linear(6)) < 1e-12
    assert drift(Linearised(network(6))) < 1e-12
    assert drift(network(6)) > 0.05


def test_a_linearised_network_is_the_network_to_first_order() -> None:
    """Where it was expanded, exactly; around there, ten times closer leaves a hundredth of the difference."""
    model, (x, _) = network(6), batch(16, 6)
    differences = []
    for size in (1e-2, 1e-3):
        moved, expansion = copy.deepcopy(model), Linearised(model)
        torch.testing.assert_close(expansion(x), model(x))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for a, b in zip(moved.parameters(), expansion.moving.parameters(), strict=True):
                step = size * torch.randn(a.shape, generator=generator, dtype=a.dtype)
                a += step
                b += step
            differences.append(float((moved(x) - expansion(x)).norm()))
            assert float((expansion(x) - model(x)).norm()) > 5 * differences[-1]
    assert differences[0] / differences[1] == pytest.approx(100, rel=0.1)


def test_a_linearised_network_follows_the_closed_form_of_its_tangent_kernel() -> None:
    """Trained by zoft, and its dimension is that of the weights that move."""
    problem = Problem(Linearised(network(6)))
    lr = problem.limit("mezo") / 20
    losses = problem.losses("mezo", lr, seeds=4).mean(0)
    assert losses[-1] < 0.8 * losses[0]
    np.testing.assert_allclose(losses, problem.expected("mezo", lr)[list(STEPS)], rtol=0.06)
