"""Audits let a mechanism that keeps its promise pass, and catch every way of breaking it that is tried here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from zoft import ZOOptimizer
from zoft.errors import ConfigError
from zoft.privacy import PoissonBatches, PrivacyConfig, PrivacyPlan, mechanism
from zoft.privacy.audit import Releases, Subject, audit_release, audit_run
from zoft.privacy.audit.audits import _measured
from zoft.privacy.audit.bounds import best_threshold, epsilon_bound, gaussian_bound, gaussian_epsilon, upper_rate
from zoft.privacy.audit.scores import scores
from zoft.privacy.audit.subjects import mechanism_subject
from zoft.privacy.clipping import CLIPPED
from zoft.replay_log import ReplayLog
from zoft.types import ZOConfig

CERTAIN = 1.0 - 1e-7  # of a verdict that must be right every time the tests run

REAL_NOISE, REAL_CLIP = mechanism.noised, mechanism.clip_to_grid


def planned(
    sigma: float = 1.0, *, rate: tuple[int, int] = (1, 2), steps: int = 10, size: int = 1, **config: Any
) -> PrivacyPlan:
    """Plan a run; ``rate`` is expected batch size over number of examples."""
    if config.get("dp_mechanism") != "laplace":
        config["dp_target_delta"] = 1e-5
    return PrivacyPlan.of(
        PrivacyConfig(dp_noise_multiplier=sigma, **config),
        num_examples=rate[1],
        expected_batch_size=rate[0],
        steps=steps,
        num_scalars=size,
    )


# --- a promise that is kept ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("canary", ["saturating", "huge", "nan"])
@pytest.mark.parametrize(
    "plan",
    [
        planned(1.0),
        planned(0.3, rate=(16, 1000), size=3, dp_clip_threshold=1e-3),
        planned(0.5, dp_mechanism="laplace"),
    ],
    ids=["plain", "vector", "laplace"],
)
def test_a_correct_release_is_no_violation_and_no_canary_gains_by_excess(plan: PrivacyPlan, canary: str) -> None:
    result = audit_release(plan, draws=5000, canary=canary, confidence=CERTAIN, progress=False)
    assert not result.is_violation
    if canary == "nan":
        assert result.measured < 0.1 * result.claimed  # it adds nothing
    else:
        assert result.measured > 0.5 * result.claimed  # the audit is no formality


@pytest.mark.parametrize(
    "plan",
    [
        planned(1.0),
        planned(2.0, rate=(1, 8), steps=8, size=4),
        planned(1.0, rate=(1, 1), steps=3),
        planned(2.0, steps=8, dp_accountant="rdp"),
        planned(1.0, steps=4, dp_mechanism="laplace"),
    ],
    ids=["half", "vector", "every example", "rdp", "laplace"],
)
def test_a_correct_run_is_no_violation(plan: PrivacyPlan) -> None:
    result = audit_run(plan, runs=400, confidence=CERTAIN, progress=False)
    assert not result.is_violation and 0.0 <= result.measured < result.claimed


def test_one_call_for_each_release_as_in_training_measures_the_same() -> None:
    for together in (64, 1):
        result = audit_release(planned(), draws=3000, confidence=CERTAIN, together=together, progress=False)
        assert 0.3 * result.claimed < result.measured < result.claimed


def test_noise_that_no_public_seed_repeats_is_of_no_use_to_who_knows_the_seeds() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    result = audit_release(planned(), draws=1000, seeds_are_known=True, confidence=CERTAIN, progress=False)
    assert not result.is_violation
    assert torch.equal(torch.get_rng_state(), state)  # an audit leaves the generators as they were


# --- a promise that is broken -------------------------------------------------------------------------------------


def seeded_noise(total: Sequence[int], kind: str, noise_multiplier: float) -> list[int]:
    noise = torch.randn(len(total), dtype=torch.float64) * noise_multiplier * CLIPPED
    return (torch.tensor(total) + noise.round().long()).tolist()


def clipped_one_by_one(slopes: Sequence[float], clip_threshold: float) -> list[int]:
    return [REAL_CLIP([slope], clip_threshold)[0] for slope in slopes]


def test_halved_noise_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanism, "noised", lambda total, kind, scale: REAL_NOISE(total, kind, scale / 2))
    assert audit_release(planned(), draws=4000, progress=False).is_violation
    assert audit_run(planned(2.0), runs=4000, progress=False).is_violation
    assert audit_release(planned(dp_mechanism="laplace"), draws=8000, progress=False).is_violation


def test_missing_noise_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanism, "noised", lambda total, kind, scale: list(total))
    assert audit_release(planned(), draws=400, progress=False).is_violation
    assert audit_run(planned(), runs=400, progress=False).is_violation


def test_noise_from_a_public_seed_is_caught_by_who_knows_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanism, "noised", seeded_noise)
    assert not audit_release(planned(), draws=1000, confidence=CERTAIN, progress=False).is_violation
    assert audit_release(planned(), draws=1000, seeds_are_known=True, progress=False).is_violation


def test_elements_clipped_one_by_one_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanism, "clip_to_grid", clipped_one_by_one)
    for canary in ("saturating", "huge"):
        assert audit_release(planned(size=16), draws=400, canary=canary, progress=False).is_violation
    assert not audit_release(planned(size=1), draws=400, confidence=CERTAIN, progress=False).is_violation


def test_a_clip_that_lets_nan_through_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_floats(slopes: Sequence[float], clip_threshold: float) -> list[Any]:
        norm = math.hypot(*slopes)
        scale = clip_threshold / norm if norm > clip_threshold else 1.0  # NaN is not larger than anything
        return [slope * scale / clip_threshold * CLIPPED for slope in slopes]

    def float_noise(total: Sequence[float], kind: str, scale: float) -> list[Any]:
        return [x + y for x, y in zip(total, REAL_NOISE([0] * len(total), kind, scale), strict=True)]

    monkeypatch.setattr(mechanism, "clip_to_grid", in_floats)
    monkeypatch.setattr(mechanism, "noised", float_noise)
    assert audit_release(planned(), draws=400, canary="nan", progress=False).is_violation
    assert not audit_release(planned(), draws=400, canary="huge", confidence=CERTAIN, progress=False).is_violation


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_a_missing_clip_is_caught(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unclipped(slopes: Sequence[float], clip_threshold: float) -> list[int]:
        return [int(min(slope / clip_threshold, 1e6) * CLIPPED) for slope in slopes]

    monkeypatch.setattr(mechanism, "clip_to_grid", unclipped)
    plan = planned(dp_mechanism=kind)
    assert audit_release(plan, draws=400, canary="huge", progress=False).is_violation
    assert not audit_release(plan, draws=400, canary="saturating", confidence=CERTAIN, progress=False).is_violation


def test_division_by_the_actual_batch_size_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    added = []
    real_release = mechanism.release

    class Counting(mechanism.PrivateSum):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            added.clear()

        def add(self, slopes: Sequence[float]) -> None:
            super().add(slopes)
            added.append(1)

    def release(total: Sequence[int], **settings: Any) -> list[float]:
        return real_release(total, **{**settings, "expected_batch_size": max(1, len(added))})

    monkeypatch.setattr(mechanism, "PrivateSum", Counting)
    monkeypatch.setattr(mechanism, "release", release)
    assert audit_release(planned(), draws=2000, together=1, progress=False).is_violation


def test_an_empty_batch_that_is_skipped_is_caught_by_the_number_of_releases() -> None:
    plan = planned(8.0, rate=(1, 8), steps=40)
    made = mechanism_subject(plan, canary="saturating", others=0)

    def skipping(present: bool, count: int) -> list[Releases]:
        full = made(present, count)
        took_part = [
            [bool(batch) and present for batch in PoissonBatches(1, plan.sample_rate, plan.steps)] for _ in full
        ]
        return [[r for r, took in zip(run, of, strict=True) if took] for run, of in zip(full, took_part, strict=True)]

    result = audit_run(plan, runs=200, subject=skipping, progress=False)
    assert result.is_violation and result.measured > 2.0 > result.claimed
    assert result.bounds[0].statistic == "number of releases"


# --- an optimizer's own steps, as its log shows them --------------------------------------------------------------


def optimizer_subject(plan: PrivacyPlan, folder: Path) -> Subject:
    """Runs of one step, which are steps of one optimizer. The canary's losses saturate the clip wherever it is."""
    logs = (folder / f"log{number}" for number in range(10**9))

    def canary() -> Any:
        signs: Iterator[float] = iter([1e30, -1e30] * plan.num_scalars)
        return lambda: torch.tensor(next(signs))

    def runs(present: bool, count: int) -> list[Releases]:
        path, config = next(logs), ZOConfig("mezo", num_queries=plan.num_scalars)
        many = dataclasses.replace(plan, steps=count)
        optimizer = ZOOptimizer(torch.nn.Linear(1, 1), 1e-30, config, privacy=many, log=path)
        for batch in PoissonBatches(1, plan.sample_rate, count):
            optimizer.step([canary() for _ in batch if present])
        optimizer.close_log()
        return [[list(record.scalars)] for record in ReplayLog.open(path).records]

    return runs


def test_an_optimizers_steps_are_no_violation_and_tell_what_the_mechanism_tells(tmp_path: Path) -> None:
    plan = planned(0.25, rate=(1, 1), steps=1, size=2)
    for subject in (optimizer_subject(plan, tmp_path), None):
        result = audit_run(plan, runs=500, subject=subject, together=500, confidence=CERTAIN, progress=False)
        assert 1.0 < result.measured and not result.is_violation


def test_an_optimizer_that_adds_no_noise_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanism, "noised", lambda total, kind, scale: list(total))
    plan = planned(2.0, rate=(1, 1), steps=1)
    subject = optimizer_subject(plan, tmp_path)
    assert audit_run(plan, runs=100, subject=subject, together=100, progress=False).is_violation


# --- the bounds ---------------------------------------------------------------------------------------------------


def test_the_interval_is_clopper_and_pearsons() -> None:
    for count in (0, 3, 50, 99, 100):
        want = stats.binomtest(count, 100, alternative="less").proportion_ci(0.975, method="exact").high
        assert upper_rate(np.array([count]), 100, 0.025)[0] == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(("mu", "epsilon"), [(1.0, 4.377), (0.5, 1.993)])
def test_gaussian_dp_at_a_delta_is_the_published_figure(mu: float, epsilon: float) -> None:
    assert gaussian_epsilon(mu, 1e-5) == pytest.approx(epsilon, abs=1e-3)
    assert gaussian_epsilon(0.0, 1e-5) == 0.0


def test_exact_error_rates_give_back_mu_and_epsilon() -> None:
    thresholds = np.linspace(-3.0, 4.0, 15)
    rates = stats.norm.sf(thresholds), stats.norm.cdf(thresholds, loc=1.3)
    assert gaussian_bound(*rates) == pytest.approx(1.3)
    # Randomised response with probability 3/4 is log(3)-private, and no more.
    assert epsilon_bound(np.array([0.25]), np.array([0.25]), 0.0)[0] == pytest.approx(math.log(3.0))
    assert epsilon_bound(np.array([0.5]), np.array([0.5]), 0.1)[0] == 0.0


def test_the_ratio_is_that_of_the_sampled_mechanism() -> None:
    plan = planned(0.8, rate=(3, 12), steps=2, size=4, dp_clip_threshold=7.0)
    along = np.array([0.4, -0.2])  # in units of the clip threshold
    vectors = [[x * 7.0 / 2.0 / 3.0] * 4 for x in along]
    absent = stats.norm.logpdf(along, scale=0.8)
    present = np.logaddexp(np.log(0.75) + absent, np.log(0.25) + stats.norm.logpdf(along, loc=1.0, scale=0.8))
    ratio, total, number = scores([vectors, []], plan, others=0).T
    assert ratio == pytest.approx([(present - absent).sum(), 0.0])
    assert total == pytest.approx([0.2, 0.0]) and list(number) == [2, 0]
    assert scores([[[math.nan] * 4]], plan, others=0)[0, 0] == math.inf


def test_the_stated_confidence_holds_since_how_to_guess_is_settled_on_other_runs() -> None:
    """Of a mechanism at its limit, mu = 1, more would exceed it where choice and measurement share their runs."""
    generator = np.random.default_rng(0)
    exceeded = cheated = 0
    for _ in range(400):
        absent, present = generator.normal(0.0, 1.0, (200, 1)), generator.normal(1.0, 1.0, (200, 1))
        exceeded += _measured(absent, present, 0.2, gaussian_bound)[1] > 1.0
        cheated += best_threshold(absent[:100, 0], present[:100, 0], 0.2, gaussian_bound)[1] > 1.0
    assert exceeded <= 0.4 * 400 < cheated


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"canary": "hug"}, "Did you mean 'huge'"),
        ({"confidence": 95}, r"confidence must be in \(0, 1\), got 95"),
        ({"draws": 1}, "at least 2 repetitions"),
        ({"together": 0}, "together must be an integer >= 1"),
    ],
)
def test_an_audit_that_cannot_be_says_why(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        audit_release(planned(), **{"draws": 10, "progress": False, **options})


# --- the figures of docs/privacy-audit.md -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sigma", "epsilon", "canary"), [(1.0, 4.377, "saturating"), (1.0, 4.377, "huge"), (2.0, 1.993, "saturating")]
)
def test_a_million_releases_measure_almost_all_of_the_promise(sigma: float, epsilon: float, canary: str) -> None:
    result = audit_release(planned(sigma), draws=1_000_000, canary=canary, progress=False)
    print(result)
    assert result.claimed == pytest.approx(epsilon, abs=1e-3)
    assert 0.95 * epsilon <= result.measured <= epsilon


@pytest.mark.slow
def test_ten_thousand_runs_are_no_violation() -> None:
    result = audit_run(planned(1.0, rate=(1, 20), steps=200), runs=10_000, progress=False)
    print(result)
    assert result.claimed == pytest.approx(4.77, abs=0.015) and not result.is_violation
    assert 1.0 < result.measured < 3.0
    assert result.bounds[1].measured > 0.6 * result.bounds[1].claimed


@pytest.mark.slow
def test_ten_thousand_runs_catch_halved_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanism, "noised", lambda total, kind, scale: REAL_NOISE(total, kind, scale / 2))
    result = audit_run(planned(1.0, rate=(1, 20), steps=200), runs=10_000, progress=False)
    print(result)
    assert result.is_violation and result.measured > 3.0
    assert result.bounds[1].measured > 2.0 * result.bounds[1].claimed
