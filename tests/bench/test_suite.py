"""A suite expands into all its runs, each of which is named by what defines it, and refuses what it does not know."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.bench.suites import PROBLEM, result, suite
from zoft.bench.optimisers import BASELINES
from zoft.bench.run import FORMAT
from zoft.bench.suite import Suite, only
from zoft.bench.tuning import plan, used
from zoft.errors import ConfigError
from zoft.recipe import read_recipe
from zoft.registry import method_names

RECIPES = sorted(Path("recipes/bench").glob("*.yaml"))


def test_a_run_is_named_by_everything_that_defines_it() -> None:
    run = suite().run("cancer", "mezo", 1e-2, 0, "final")
    assert run.id == suite().run("cancer", "mezo", 1e-2, 0, "final").id
    changes: dict[str, Any] = {
        "problem": "other",
        "task": {**PROBLEM, "l2": 0.1},
        "method": "other",
        "optimiser": "fzoo",
        "options": {"num_queries": 2},
        "lr": 2e-2,
        "lr_factor": 2.0,
        "seed": 1,
        "stage": "tuning",
        "budget_forwards": 41,
        "evaluations": 3,
        "device": "cuda",
    }
    assert set(changes) == {field.name for field in dataclasses.fields(run)}
    ids = {dataclasses.replace(run, **{name: value}).id for name, value in changes.items()}
    assert len(ids | {run.id}) == len(changes) + 1


def test_names_are_the_same_on_every_machine() -> None:
    """Results are found again by them, so they may change only with the format's number."""
    assert FORMAT == 1
    assert suite().run("cancer", "mezo", 0.01, 0, "final").id == "2f6cd72ab5fa7a57"


def test_all_means_every_registered_method_and_every_baseline() -> None:
    assert suite(methods=["all"]).method_names == (*method_names(), *BASELINES)
    assert only(suite(methods=["all"]), ["fzoo"]) == ("fzoo",)


def test_the_plan_holds_each_learning_rate_and_seed_once() -> None:
    """Three rates for each method that takes one; then rates times seeds, and seeds alone for the one without."""
    made = suite()
    first = plan(made, {}, made.method_names)
    tuning = [run for run in first if run.stage == "tuning"]
    assert [(run.method, run.lr) for run in tuning] == [
        (method, pytest.approx(lr)) for method in ("mezo", "fo_sgd") for lr in (2.5e-3, 1e-2, 4e-2)
    ]
    assert {run.seed for run in tuning} == {made.tuning_seed}
    assert [(run.method, run.lr, run.seed) for run in first if run.stage == "final"] == [
        ("so_lbfgs", None, seed) for seed in made.seeds
    ]
    results = {run.id: result(run, 0.1 if run.lr == 1e-2 else 0.2) for run in first}
    halves = plan(made, results, made.method_names)
    assert [(run.method, run.lr) for run in halves] == [(m, lr) for m in ("mezo", "fo_sgd") for lr in (5e-3, 2e-2)]
    assert {run.seed for run in halves} == {made.tuning_seed}
    results |= {run.id: result(run, 0.15) for run in halves}
    last = plan(made, results, made.method_names)
    assert [(run.method, run.lr, run.seed) for run in last] == [
        (method, lr, seed) for method in ("mezo", "fo_sgd") for lr in (1e-2, 5e-3, 2e-2) for seed in made.seeds
    ]
    results |= {run.id: result(run, 0.1) for run in last}
    assert plan(made, results, made.method_names) == []
    stranger = made.run("cancer", "mezo", 0.5, 7, "final")
    assert used(made, {**results, stranger.id: result(stranger, 0.1)}, made.method_names) == results


def test_a_method_may_appear_with_several_settings() -> None:
    made = suite(methods=["mezo", "many"], settings={"many": {"method": "mezo", "num_queries": 8, "lr_centre": 1}})
    run = made.run("cancer", "many", 1.0, 0, "final")
    assert (run.optimiser, run.options["num_queries"], made.centre("many", "cancer")) == ("mezo", 8, 1.0)


def test_settings_of_a_problem_go_over_those_of_the_method() -> None:
    two = {"cancer": dict(PROBLEM), "noisy": {**PROBLEM, "label_noise": 0.1}}
    made = suite(
        problems=two,
        settings={"mezo": {"zo_eps": 1e-2, "lr_centre": 1.0}},
        settings_on={"noisy": {"mezo": {"lr_centre": 2.0}, "fo_sgd": {"lr_centre": 3.0}}},
    )
    centres = [made.centre(method, problem) for problem in two for method in ("mezo", "fo_sgd")]
    assert centres == [1.0, made.lr_centre, 2.0, 3.0]
    runs = [run for run in plan(made, {}, made.method_names) if run.problem == "noisy" and run.method == "mezo"]
    assert [(run.lr, run.options["zo_eps"]) for run in runs] == [(0.5, 1e-2), (2.0, 1e-2), (8.0, 1e-2)]


def test_a_recipe_may_say_more_than_the_methods_that_are_run() -> None:
    """So that --methods can leave some out; of those too, what is said is checked."""
    made = suite(settings_on={"cancer": {"fo_adamw": {"lr_centre": 1e-3}}}, without={"cancer": ["so_newton"]})
    assert made.centre("fo_adamw", "cancer") == 1e-3 and "fo_adamw" not in made.method_names
    with pytest.raises(ConfigError, match="settings_on: cancer: fo_adamw: unknown key 'lr_center'"):
        suite(settings_on={"cancer": {"fo_adamw": {"lr_center": 1e-3}}})


def test_methods_can_be_left_out_of_a_problem() -> None:
    made = suite(without={"cancer": ["fo_sgd"]})
    assert {run.method for run in plan(made, {}, made.method_names)} == {"mezo", "so_lbfgs"}


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_each_recipe_is_valid(path: Path) -> None:
    made = Suite(**read_recipe(path))
    made.check()
    assert made.name == path.stem and len(made.seeds) >= 3


def test_there_are_five_tiers() -> None:
    assert [path.stem for path in RECIPES] == ["encoder", "full", "medium", "real", "small"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problems": {}}, "problems: expected at least one problem, got none"),
        ({"problems": ["digits"]}, r"problems: expected a mapping, got \['digits'\]"),
        ({"problems": {"a": {"dataset": "digits"}}}, "problems: a: expected a mapping with a key 'kind'"),
        ({"problems": {"a": {"kind": "tabula"}}}, "no kind 'tabula'. Did you mean 'tabular'"),
        ({"problems": {"a": {"kind": "tabular"}}}, "problems: a: the key 'dataset' is missing"),
        ({"problems": {"a": {**PROBLEM, "labelnoise": 0.1}}}, "unknown key 'labelnoise'. Did you mean 'label_noise'"),
        ({"problems": {"a": {**PROBLEM, "label_noise": 1.5}}}, r"label_noise must be in \[0, 1\), got 1.5"),
        ({"problems": {"a": {**PROBLEM, "batch_size": 0}}}, "batch_size must be an integer >= 1, got 0"),
        ({"problems": {"a": {**PROBLEM, "hidden": 3}}}, "problems: a: hidden: expected a list of an integer, got 3"),
        ({"problems": {"a": {**PROBLEM, "l2": "much"}}}, "problems: a: l2: expected a number, got 'much'"),
        ({"problems": {"a": {**PROBLEM, "dataset": "digit"}}}, "got 'digit'. Did you mean 'digits'"),
        ({"methods": ["mezo", "fo_adam"]}, "there is no method 'fo_adam'. Did you mean 'fo_adamw'"),
        ({"settings": {"mezo": {"zo_epsilon": 1}}}, "settings: mezo: unknown key 'zo_epsilon'. Did you mean 'zo_eps'"),
        ({"settings": {"mezo": {"method_kwargs": {"rank": 1}}}}, "method 'mezo' has no option 'rank'"),
        ({"settings": {"fo_sgd": {"momentum": True}}}, "settings: fo_sgd: momentum: expected a number, got True"),
        ({"settings": {"mezo": {"lr_centre": 0}}}, "lr_centre of mezo on cancer must be a finite number > 0"),
        ({"settings": "mezo"}, "settings: expected a mapping, got 'mezo'"),
        ({"settings_on": {"cancr": {}}}, "settings_on: there is no problem 'cancr'. Did you mean 'cancer'"),
        ({"settings_on": {"cancer": {"mzo": {}}}}, "settings_on: cancer: there is no method 'mzo'. Did you mean"),
        ({"settings_on": {"cancer": {"mezo": {"zo_epsilon": 1}}}}, "settings_on: cancer: mezo: unknown key 'zo_ep"),
        ({"settings_on": ["cancer"]}, "settings_on: expected a mapping, got \\['cancer'\\]"),
        ({"settings_on": {"cancer": "mezo"}}, "settings_on: cancer: expected a mapping, got 'mezo'"),
        ({"settings_on": {"cancer": {"mezo": 3}}}, "settings_on: cancer: mezo: expected a mapping, got 3"),
        ({"settings_on": {"cancer": {20: {}}}}, "settings_on: cancer: there is no method 20"),
        ({"settings_on": {"cancer": {"mezo": {20: 1}}}}, "settings_on: cancer: mezo: unknown key 20"),
        ({"settings_on": {"cancer": {"mezo": {"lr_centre": 0}}}}, "lr_centre of mezo on cancer must be a finite"),
        ({"reference": "mezzo"}, "reference 'mezzo' is not among the methods. Did you mean 'mezo'"),
        ({"without": {"cancr": ["mezo"]}}, "no problem 'cancr'. Did you mean 'cancer'"),
        ({"without": {"cancer": ["mzo"]}}, "without: cancer: there is no method 'mzo'. Did you mean 'mezo'"),
        ({"seeds": [1, 1]}, r"seeds must be different numbers, got \[1, 1\]"),
        ({"seeds": []}, "seeds must hold at least one integer"),
        ({"seeds": [-1, 0]}, r"seeds and tuning_seed must be in \[0, 2\*\*63\), got -1"),
        ({"tuning_seed": 2**70}, r"must be in \[0, 2\*\*63\)"),
        ({"lr_sensitivity": [2.0, 2.0]}, r"lr_sensitivity must be different numbers, got \[2.0, 2.0\]"),
        ({"device": "gpu"}, "device must be one of torch's, such as cpu or cuda, got 'gpu'"),
        ({"problems": {"a/b": PROBLEM}}, "problems: 'a/b' also names a file: use letters"),
        ({"problems": {"a": {**PROBLEM, "hidden": [-3]}}}, "problems: a: hidden must be an integer >= 1, got -3"),
        ({"problems": {"a": {**PROBLEM, "l2": float("inf")}}}, "problems: a: l2 must be a finite number, got inf"),
        ({"settings": {"fo_sgd": {"momentum": -2.0}}}, r"settings: fo_sgd: momentum must be in \[0, 1\), got -2"),
        ({"settings": {"so_lbfgs": {"history": 0}}}, "settings: so_lbfgs: history must be an integer >= 1, got 0"),
        ({"settings": {"fo_adamw": {"weight_decay": -1}}}, "settings: fo_adamw: weight_decay must be >= 0, got -1"),
        ({"tuning_seed": 1}, "tuning_seed 1 must not be among seeds"),
        ({"budget_forwards": 0}, "budget_forwards must be an integer >= 1, got 0"),
        ({"lr_points": 4}, "lr_points must be odd and >= 3"),
        ({"lr_ratio": 1.0}, "lr_ratio must be a number > 1, got 1.0"),
        ({"lr_max_extensions": -1}, "lr_max_extensions must be >= 0, got -1"),
        ({"lr_sensitivity": [1.0]}, "lr_sensitivity must hold numbers > 0 other than 1"),
    ],
)
def test_what_a_suite_does_not_know_is_named_with_what_to_do(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        suite(**changes)


def test_only_names_methods_of_the_suite() -> None:
    with pytest.raises(ConfigError, match="only: 'fo_adamw' is not in the suite"):
        only(suite(), ["fo_adamw"])
    assert only(suite(), ["fo_sgd", "fo_sgd"]) == ("fo_sgd",)


def test_a_single_name_left_out_is_that_name_and_no_part_of_it() -> None:
    made = suite(methods=["newton", "so_newton", "mezo"], without={"cancer": "so_newton"})
    assert made.methods_on("cancer", made.method_names) == ["newton", "mezo"]
