"""What a run owes: it keeps to its budget, is the same every time, and whatever happens is a result."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoft
from tests.bench.suites import PROBLEM, suite
from tests.methods import DISTINCT
from zoft.bench.execute import execute
from zoft.bench.objective import GRADIENT, HESSIAN_PRODUCT, LOSS, BudgetSpentError, Objective
from zoft.bench.optimisers import BASELINES, make_optimiser, optimiser_names
from zoft.bench.problems import Problem, Scores, make_task
from zoft.bench.runner import attempt
from zoft.bench.tuning import plan
from zoft.errors import NonFiniteLossError
from zoft.method import build_method
from zoft.step_size import ladder

QUICK = (*DISTINCT, *BASELINES)
ALL = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in optimiser_names()]
OPTIONS = {"subzero": {"method_kwargs": {"rank": 2}}}
BUDGET = 61


def cancer() -> Problem:
    return make_task(PROBLEM, "cancer").build(0, torch.device("cpu"))


def options(name: str) -> dict[str, Any]:
    return OPTIONS.get(name, {}) if name in BASELINES else {"placement": "snapshot", **OPTIONS.get(name, {})}


def tangents(name: str) -> int:
    """What an evaluation of a method is worth, in forwards."""
    differentiated = name not in BASELINES and build_method(zoft.ZOConfig(method=name)).evaluation == "differentiated"
    return 2 if differentiated else 1


def weights(problem: Problem) -> list[Tensor]:
    return [p.detach().clone() for p in problem.model.parameters()]


def test_a_step_size_that_is_measured_is_paid_for_and_not_tuned() -> None:
    optimiser = make_optimiser("mezo", {"placement": "snapshot", "zo_lr": "auto"}, "mezo_auto")
    assert not optimiser.tunes_lr
    problem, steps = cancer(), []
    objective = Objective(problem, 0, BUDGET, lambda objective: steps.append(objective.spent))
    with contextlib.suppress(BudgetSpentError):
        optimiser.minimise(objective, 1.0)
    assert objective.spent <= BUDGET and len(steps) < BUDGET / 2 - ladder.NUM_POINTS / 2
    made = suite(methods=["mezo", "measured"], settings={"measured": {"method": "mezo", "zo_lr": "auto"}})
    first = [run for run in plan(made, {}, made.method_names) if run.method == "measured"]
    assert [(run.lr, run.stage, run.seed) for run in first] == [(None, "final", seed) for seed in made.seeds]


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_evaluated_that_was_not_paid_for(name: str) -> None:
    """Rows are counted where they are evaluated; a backward pass, and a product, by the hooks that they go through."""
    problem = cancer()
    evaluated, backwards = [0.0], [0.0]
    plain = problem.losses

    def counted(rows: Tensor) -> Tensor:
        evaluated[0] += len(rows) / problem.batch_size
        losses = plain(rows)
        if losses.requires_grad and not torch._C._functorch.is_functorch_wrapped_tensor(losses):
            losses.register_hook(lambda _: backwards.__setitem__(0, backwards[0] + len(rows) / problem.batch_size))
        return losses

    problem.losses = counted  # type: ignore[method-assign]
    objective = Objective(problem, 0, BUDGET, lambda _: None)
    products: list[float] = []
    plain_product = objective.hessian_product

    def product(rows: Tensor, vector: dict[str, Tensor]) -> dict[str, Tensor]:
        made = plain_product(rows, vector)
        products.append(len(rows) / problem.batch_size)
        return made

    objective.hessian_product = product  # type: ignore[method-assign]
    with pytest.raises(BudgetSpentError):
        make_optimiser(name, options(name), name).minimise(objective, 1e-3)
    # A product evaluates the loss once, for 6; a gradient once, for 3; a forward gradient once, for 2.
    cost = tangents(name) * evaluated[0] + (GRADIENT - LOSS) * backwards[0] + (HESSIAN_PRODUCT - LOSS) * sum(products)
    assert cost == pytest.approx(objective.spent) and 0 < objective.spent <= BUDGET


@pytest.mark.parametrize("name", ALL)
def test_a_run_ends_with_the_weights_of_its_last_complete_step(name: str) -> None:
    problem = cancer()
    after: list[list[Tensor]] = [weights(problem)]
    objective = Objective(problem, 0, BUDGET, lambda _: after.append(weights(problem)))
    with pytest.raises(BudgetSpentError):
        make_optimiser(name, options(name), name).minimise(objective, 1e-2)
    assert len(after) == objective.steps + 1
    assert all(torch.equal(a, b) for a, b in zip(after[-1], weights(problem), strict=True))


@pytest.mark.parametrize("name", ALL)
def test_a_method_that_is_in_the_suite_by_name_alone_runs_the_same_twice(name: str) -> None:
    made = suite(methods=[name], reference=name, settings=OPTIONS)
    run = made.run("cancer", name, 1e-3, 0, "final")
    first, second = execute(run), execute(run)
    for result in (first, second):
        assert result.pop("seconds") >= 0.0
        del result["extra_bytes"]
        result["curve"] = [(forwards, loss) for forwards, _, loss in result["curve"]]
    assert first == second
    assert first["status"] == "done" and first["forwards"] <= made.budget_forwards
    assert set(first["scores"]) == {"train", "dev", "test", "shifted"}
    assert first["curve"][0][0] == 0.0 and first["curve"][-1][1] == first["scores"]["dev"]["loss"]


def test_seeds_decide_batches_and_each_epoch_has_every_row_once() -> None:
    problem = cancer()
    order: dict[int, list[int]] = {}
    for seed in (0, 1):
        objective = Objective(problem, seed, 1e9, lambda _: None)
        order[seed] = []
        for _ in range(problem.train_rows // problem.batch_size):
            order[seed] += objective.batch().tolist()
            objective.step_done()
    assert len(set(order[0])) == len(order[0]) and order[0] != order[1]


def test_tuning_sees_the_dev_split_alone() -> None:
    assert set(execute(suite().run("cancer", "fo_sgd", 1e-2, 0, "tuning"))["scores"]) == {"dev"}


def test_the_curve_has_a_point_for_each_share_of_the_budget() -> None:
    curve = execute(suite(evaluations=4).run("cancer", "mezo", 1e-2, 0, "final"))["curve"]
    assert [row[0] for row in curve] == [0.0, 10.0, 20.0, 30.0, 40.0, 40.0]
    assert [row[1] for row in curve] == sorted(row[1] for row in curve)


@pytest.mark.parametrize("method", ["mezo", "fo_sgd"])
def test_a_diverging_run_is_a_result(method: str) -> None:
    """At an infinite step it counts as knowing nothing, or as its last finite loss if that is worse."""
    result = attempt(suite().run("cancer", method, 1e38, 0, "final"))
    assert (result["status"] == "diverged" and "not finite" in result["message"]) or "is nan" in result["message"]
    for split, score in result["scores"].items():
        assert score["loss"] >= math.log(2.0) - 1e-6 and math.isfinite(score["loss"]), split
        assert 0.5 <= score["accuracy"] < 1.0


def test_a_failing_run_is_reported_with_its_message() -> None:
    run = dataclasses.replace(
        suite().run("cancer", "so_bfgs", None, 0, "final"), task={**PROBLEM, "dataset": "digits", "hidden": [64]}
    )
    result = attempt(run)
    assert result["status"] == "failed"
    assert (
        "ConfigError: BFGS keeps a square matrix" in result["message"] and "this problem has 4810" in result["message"]
    )
    assert result["environment"]["torch"] == torch.__version__


class Quadratic:
    """``(x - c)^T A (x - c) / 2`` whatever the rows, with A's eigenvalues 1 to 20."""

    batch_size = 8
    train_rows = 8
    splits = ("dev", "test")

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        q, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator))
        self.a = q @ torch.diag(torch.linspace(1.0, 20.0, 6)) @ q.T
        self.c = torch.randn(6, generator=generator)
        self.model: Any = nn.ParameterDict({"x": nn.Parameter(torch.zeros(6))})

    def losses(self, rows: Tensor) -> Tensor:
        x = self.model["x"] - self.c
        return (x @ self.a @ x / 2).expand(len(rows))

    def scores(self, split: str) -> Scores:
        return Scores(float(self.losses(torch.arange(8))[0].detach()), 0.0)

    def chance(self, split: str) -> Scores:
        return Scores(1.0, 0.0)


@pytest.mark.parametrize(
    ("name", "lr"),
    [("fo_sgd", 0.05), ("fo_adamw", 0.05), ("fo_svrg", 0.05), *((n, 1.0) for n in BASELINES if n.startswith("so_"))],
)
def test_a_baseline_finds_the_minimum_of_a_quadratic(name: str, lr: float) -> None:
    problem = Quadratic()
    objective = Objective(problem, 0, 3000, lambda _: None)
    with contextlib.suppress(BudgetSpentError):
        make_optimiser(name, {}, name).minimise(objective, lr)
    assert torch.allclose(problem.model["x"], problem.c, atol=1e-3)


def test_newton_finds_it_in_one_step_of_six_products() -> None:
    """From inside the trust region, whose first radius is 1."""
    problem = Quadratic()
    with torch.no_grad():
        problem.model["x"].copy_(problem.c + 0.1)
    objective = Objective(problem, 0, 2 * GRADIENT + 6 * HESSIAN_PRODUCT, lambda _: None)
    with pytest.raises(BudgetSpentError):
        make_optimiser("so_newton", {}, "").minimise(objective, 1.0)
    assert objective.steps == 1 and torch.allclose(problem.model["x"], problem.c, atol=1e-5)


def test_hessian_products_are_those_of_the_hessian() -> None:
    problem = Quadratic()
    vector = torch.randn(6, generator=torch.Generator().manual_seed(1))
    product = Objective(problem, 0, 6, lambda _: None).hessian_product(torch.arange(8), {"x": vector})
    assert torch.allclose(product["x"], problem.a @ vector, atol=1e-4)


@pytest.mark.parametrize("name", ["so_lbfgs", "so_bfgs", "so_newton_cg"])
def test_a_second_order_baseline_agrees_with_scikit_learn_on_logistic_regression(name: str) -> None:
    from sklearn.linear_model import LogisticRegression

    problem: Any = make_task({**PROBLEM, "l2": 1e-2}, "cancer").build(0, torch.device("cpu"))
    x, y = problem._splits["train"].inputs(torch.arange(problem.train_rows)), problem._splits["train"].labels
    # Of two logits only the difference counts, and half of it in each is shortest. Our bias is decayed too.
    with_bias = torch.cat([x, torch.ones(len(x), 1)], dim=1).numpy()
    fitted = LogisticRegression(C=2.0 / (1e-2 * len(x)), fit_intercept=False, tol=1e-8, max_iter=5000).fit(with_bias, y)
    with torch.no_grad():
        problem.model[0].weight.copy_(torch.tensor(fitted.coef_[:, :-1]).float() * torch.tensor([[-0.5], [0.5]]))
        problem.model[0].bias.copy_(torch.tensor(fitted.coef_[0, -1]).float() * torch.tensor([-0.5, 0.5]))
        lowest = float(problem.losses(torch.arange(problem.train_rows)).mean())
        for parameter in problem.model.parameters():
            parameter.zero_()
    objective = Objective(problem, 0, 10_000, lambda _: None)
    with contextlib.suppress(BudgetSpentError):
        make_optimiser(name, {}, name).minimise(objective, 1.0)
    assert float(problem.losses(objective.everything).detach().mean()) == pytest.approx(lowest, abs=1e-5)


def test_a_loss_that_is_not_finite_is_refused_whoever_asks() -> None:
    problem: Any = Quadratic()
    problem.losses = lambda rows: problem.model["x"].sum() * torch.full((len(rows),), float("nan"))
    objective = Objective(problem, 0, 100, lambda _: None)
    for evaluate in (objective.loss, objective.loss_with_gradient):
        with pytest.raises(NonFiniteLossError, match="the loss is nan at step 0"):
            evaluate(objective.everything)


def test_a_batch_larger_than_all_rows_is_all_rows_and_costs_one() -> None:
    made = make_task({"kind": "tabular", "dataset": "wine", "batch_size": 1000}, "a")
    objective = Objective(made.build(0, torch.device("cpu")), 0, 2, lambda _: None)
    rows = objective.batch()
    assert len(rows) == objective.batch_size == objective.problem.train_rows < 1000
    for spent in (1.0, 2.0):
        objective.loss(rows)
        assert objective.spent == spent
    with pytest.raises(BudgetSpentError):
        objective.loss(rows)
