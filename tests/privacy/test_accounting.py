"""What releases cost: Opacus's figures, dp-accounting's second opinion, and a budget that is never exceeded."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant
from opacus.accountants.utils import get_noise_multiplier

from tests.privacy.linear import plan, start
from zoft.errors import ConfigError, PrivacyBudgetError, ZoftWarning
from zoft.privacy import PrivacyConfig, PrivacyPlan
from zoft.privacy.accounting import Release, affordable, calibrated, epsilon

DELTA = 1e-5

# (examples, batch, steps, epsilon, sigma by rdp, sigma by prv) at delta 1e-5.
GOLDENS = [
    (1000, 16, 20_000, 6.0, 1.980, 1.873),
    (1000, 16, 20_000, 2.0, 4.941, 4.609),
    (1024, 64, 10_000, 2.0, 13.516, 12.578),
    (1000, 64, 1000, 2.0, 4.473, 4.170),
]


@pytest.mark.parametrize(("examples", "batch", "steps", "target", "rdp", "_prv"), GOLDENS)
def test_goldens_by_rdp(examples: int, batch: int, steps: int, target: float, rdp: float, _prv: float) -> None:
    check_golden(examples, batch, steps, target, "rdp", rdp)


@pytest.mark.parametrize(
    ("examples", "batch", "steps", "target", "_rdp", "prv"),
    [*(pytest.param(*golden, marks=pytest.mark.slow) for golden in GOLDENS[:-1]), GOLDENS[-1]],
)
def test_goldens_by_prv(examples: int, batch: int, steps: int, target: float, _rdp: float, prv: float) -> None:
    check_golden(examples, batch, steps, target, "prv", prv)


def check_golden(examples: int, batch: int, steps: int, target: float, accountant: str, sigma: float) -> None:
    config = PrivacyConfig(dp_target_epsilon=target, dp_target_delta=DELTA, dp_accountant=accountant)
    planned = PrivacyPlan.of(config, num_examples=examples, expected_batch_size=batch, steps=steps)
    assert planned.noise_multiplier == pytest.approx(sigma, abs=6e-4)
    assert target - 0.02 < planned.epsilon(steps) <= target
    assert planned.affordable(steps) == steps


@pytest.mark.filterwarnings("ignore:Optimal order is the largest alpha")
@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_a_plans_noise_is_what_opacus_says(accountant: str) -> None:
    config = PrivacyConfig(dp_target_epsilon=2.0, dp_target_delta=1e-6, dp_accountant=accountant)
    planned = PrivacyPlan.of(config, num_examples=500, expected_batch_size=40, steps=500, num_scalars=64)
    assert planned.noise_multiplier == get_noise_multiplier(
        target_epsilon=2.0, target_delta=1e-6, sample_rate=40 / 500, steps=500, accountant=accountant
    )


def by_dp_accounting(event: dp_event.DpEvent, sample_rate: float, steps: int, delta: float) -> float:
    accountant = pld_privacy_accountant.PLDAccountant()
    accountant.compose(dp_event.PoissonSampledDpEvent(sample_rate, event), steps)
    return float(accountant.get_epsilon(delta))


@pytest.mark.parametrize(
    ("sigma", "sample_rate", "steps"),
    [
        (1.0, 0.05, 200),
        (4.17, 0.064, 1000),
        (2.0, 1.0, 10),
        (0.8, 0.01, 500),
        (5.0, 0.5, 50),
        pytest.param(1.873, 0.016, 20_000, marks=pytest.mark.slow),
        pytest.param(12.578, 64 / 1024, 10_000, marks=pytest.mark.slow),
    ],
)
def test_prv_agrees_with_dp_accounting(sigma: float, sample_rate: float, steps: int) -> None:
    ours = epsilon([(Release("gaussian", sigma, sample_rate), steps)], delta=DELTA, accountant="prv")
    theirs = by_dp_accounting(dp_event.GaussianDpEvent(sigma), sample_rate, steps, DELTA)
    assert ours == pytest.approx(theirs, abs=0.02)
    by_rdp = epsilon([(Release("gaussian", sigma, sample_rate), steps)], delta=DELTA, accountant="rdp")
    assert by_rdp > theirs - 0.02, "another bound, and a looser one"


@pytest.mark.parametrize(("scale", "sample_rate", "steps"), [(2.0, 0.1, 10), (0.5, 0.02, 5), (1.0, 1.0, 3)])
def test_pure_epsilon_agrees_with_dp_accounting(scale: float, sample_rate: float, steps: int) -> None:
    """Theirs at a delta so small that it makes no difference; it discretises losses upwards by 1e-4 each."""
    ours = epsilon([(Release("laplace", scale, sample_rate), steps)], delta=None, accountant="prv")
    theirs = by_dp_accounting(dp_event.LaplaceDpEvent(scale), sample_rate, steps, 1e-12)
    assert ours == pytest.approx(theirs, abs=2e-4 * steps)


def test_one_release_without_sampling_costs_what_the_textbook_says() -> None:
    assert epsilon([(Release("laplace", 0.5, 1.0), 1)], delta=None, accountant="prv") == pytest.approx(2.0)
    ours = epsilon([(Release("gaussian", 1.0, 1.0), 1)], delta=DELTA, accountant="prv")
    assert ours == pytest.approx(4.377, abs=0.02)


def test_releases_of_different_scales_add_up() -> None:
    """To more than either costs, and no more than the costlier would, as often."""
    loud, quiet = Release("gaussian", 1.0, 0.05), Release("gaussian", 2.0, 0.05)
    both = epsilon([(loud, 50), (quiet, 50)], delta=DELTA, accountant="rdp")
    assert epsilon([(loud, 50)], delta=DELTA, accountant="rdp") < both
    assert both < epsilon([(loud, 100)], delta=DELTA, accountant="rdp")
    assert epsilon([(loud, 0)], delta=DELTA, accountant="prv") == epsilon([], delta=DELTA, accountant="prv") == 0.0


# --- budgets ----------------------------------------------------------------------------------------------

BUDGETS = [
    (Release("gaussian", 1.0, 0.05), 2.5, DELTA, "rdp"),
    (Release("gaussian", 1.0, 0.05), 2.5, DELTA, "prv"),
    (Release("gaussian", 3.0, 0.3), 1.0, 1e-6, "rdp"),
    (Release("laplace", 4.0, 0.1), 1.0, None, "prv"),
]


@pytest.mark.parametrize(("release", "target", "delta", "accountant"), BUDGETS)
def test_a_budget_pays_for_as_many_as_fit_and_no_more(
    release: Release, target: float, delta: float | None, accountant: str
) -> None:
    count = affordable(release, target_epsilon=target, delta=delta, accountant=accountant, most=120)
    assert 0 < count < 120
    assert epsilon([(release, count)], delta=delta, accountant=accountant) <= target
    assert epsilon([(release, count + 1)], delta=delta, accountant=accountant) > target
    fewer = affordable(release, target_epsilon=target, delta=delta, accountant=accountant, most=count - 1)
    assert fewer == count - 1


def test_a_budget_for_less_than_one_release_pays_for_none() -> None:
    assert affordable(Release("gaussian", 0.5, 1.0), target_epsilon=0.1, delta=DELTA, accountant="rdp", most=9) == 0


@pytest.mark.parametrize(("sample_rate", "steps"), [(0.1, 10), (0.016, 20_000), (1 / 3, 7), (0.3, 1), (0.07, 999)])
@pytest.mark.parametrize("target", [0.1, 1.0, 6.0])
def test_a_pure_budget_pays_for_the_steps_that_it_was_planned_for(
    target: float, sample_rate: float, steps: int
) -> None:
    """Whatever float arithmetic does to the sum."""
    scale = calibrated(
        target_epsilon=target, delta=None, sample_rate=sample_rate, steps=steps, accountant="prv", mechanism="laplace"
    )
    release = Release("laplace", scale, sample_rate)
    assert affordable(release, target_epsilon=target, delta=None, accountant="prv", most=2 * steps) == steps


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_epsilon_grows_with_every_step(accountant: str) -> None:
    release = Release("gaussian", 1.2, 0.1)
    costs = [epsilon([(release, steps)], delta=DELTA, accountant=accountant) for steps in (0, 1, 2, 3, 10, 11, 50)]
    assert all(less < more for less, more in pairwise(costs))


def test_a_run_never_reports_less_than_it_did_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where an accountant's numerical error says so."""
    said = {0: 0.0, 1: 1.0, 2: 0.999, 3: 1.2}
    monkeypatch.setattr(PrivacyPlan, "epsilon", lambda self, steps: said[steps])
    opt = start(tmp_path / "log")
    assert opt.privacy is not None
    reported = [opt.privacy.epsilon]
    for _ in range(3):
        opt.step([])
        reported.append(opt.privacy.epsilon)
    assert reported == [0.0, 1.0, 1.0, 1.2]


def test_a_run_stops_where_its_budget_ends(tmp_path: Path) -> None:
    opt = start(tmp_path / "log", noise_multiplier=2.0, dp_target_epsilon=2.0, dp_accountant="rdp", steps=500)
    spending = opt.privacy
    assert spending is not None
    count = spending.plan.affordable(500)
    assert 0 < count < 100
    while not spending.is_spent:
        opt.step([])
    before = opt.engine.model.weight.detach().clone()
    with pytest.raises(PrivacyBudgetError, match=r"dp_target_epsilon=2\.0"):
        opt.step([])
    assert opt.engine.step == spending.charged == count
    assert spending.epsilon <= 2.0 < spending.plan.epsilon(count + 1)
    assert before.equal(opt.engine.model.weight)


def test_the_cost_does_not_depend_on_the_number_of_directions() -> None:
    assert plan(num_scalars=1).epsilon(100) == plan(num_scalars=64).epsilon(100)


# --- what the user says -----------------------------------------------------------------------------------

GOOD: dict[str, Any] = {"dp_target_epsilon": 3.0, "dp_target_delta": DELTA}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("dp_target_epsilon", "dp_noise_multiplier", "dp_clip_threshold")
          for value in (0.0, -1.0, math.inf, math.nan, True, "3")),
        *((name, value) for name in ("dp_target_delta", "dp_clip_quantile")
          for value in (0.0, 1.0, -1e-5, math.nan, True, "1e-5")),
        *(("dp_clip_steps", value) for value in (0, -1, 2.5, True, "20")),
        *(("dp_mechanism", value) for value in ("gausian", None)),
        *(("dp_accountant", value) for value in ("gdp", "PRV", None)),
        *(("dp_eval_is_public", value) for value in (None, 1, "yes")),
    ],
)  # fmt: skip
def test_a_bad_setting_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name) as refused:
        PrivacyConfig(**{**GOOD, name: value})
    assert repr(value) in str(refused.value), "says what it got"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"dp_target_delta": DELTA}, ["dp_target_epsilon", "dp_noise_multiplier"]),
        ({"dp_target_epsilon": 3.0}, ["dp_target_delta"]),
        ({**GOOD, "dp_mechanism": "laplace"}, ["dp_target_delta", "dp_mechanism"]),
        ({**GOOD, "dp_clip_threshold": 1.0, "dp_clip_quantile": 0.5}, ["dp_clip_threshold", "dp_clip_quantile"]),
    ],
)
def test_settings_that_do_not_go_together_are_refused_by_their_names(
    settings: dict[str, Any], named: list[str]
) -> None:
    with pytest.raises(ConfigError) as refused:
        PrivacyConfig(**settings)
    assert all(name in str(refused.value) for name in named)


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({"num_examples": 0}, "num_examples"),
        ({"steps": 0}, "steps"),
        ({"num_scalars": 0}, "num_scalars"),
        ({"expected_batch_size": 0}, "per_device_train_batch_size"),
        ({"expected_batch_size": 65}, "per_device_train_batch_size"),
        ({"dp_mechanism": "laplace", "num_scalars": 2}, "dp_mechanism"),
        ({"clip_threshold": None, "dp_clip_quantile": 0.5, "dp_clip_steps": 20, "steps": 20}, "dp_clip_steps"),
    ],
)
def test_a_run_that_cannot_be_planned_is_refused(facts: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        plan(**facts)


def test_a_budget_that_no_noise_keeps_is_refused() -> None:
    config = PrivacyConfig(dp_target_epsilon=1e-4, dp_target_delta=DELTA, dp_accountant="rdp")
    with pytest.raises(ConfigError, match=r"dp_target_epsilon=0\.0001 is too little .* dp_accountant='prv'"):
        PrivacyPlan.of(config, num_examples=100, expected_batch_size=10, steps=100)


def test_a_delta_that_promises_nothing_is_said() -> None:
    config = PrivacyConfig(dp_noise_multiplier=1.0, dp_target_delta=0.1)
    with pytest.warns(ZoftWarning, match="dp_target_delta=0.1 is not below 1 / 10"):
        PrivacyPlan.of(config, num_examples=10, expected_batch_size=2, steps=5)


@pytest.mark.parametrize("value", [3.0, {"dp_target_epsilon": 3.0}, "3"])
def test_privacy_is_a_config(value: object) -> None:
    with pytest.raises(ConfigError, match="privacy must be a PrivacyConfig"):
        PrivacyConfig.of(value)


def test_a_plan_is_what_its_description_says() -> None:
    planned = plan(num_scalars=3, dp_target_epsilon=2.0, dp_accountant="rdp")
    assert PrivacyPlan.from_dict(planned.to_dict()) == planned
    for part in ("gaussian", "noise multiplier 1 ", "delta 1e-05", "8 of 64", "add/remove", "rdp"):
        assert part in str(planned)
