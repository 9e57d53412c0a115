"""The audits: run with and without a chosen example, guess which it was, and hold the success against the promise.

The adversary knows everything but the batches and the noise, and sees every release. How to guess is settled on one
half of the repetitions, and what that is worth is measured on the other, so that the stated confidence holds.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tqdm import tqdm

from zoft.checks import check_choice, check_count
from zoft.errors import ConfigError
from zoft.privacy.accounting import epsilon
from zoft.privacy.audit.bounds import (
    Value,
    best_threshold,
    epsilon_bound,
    error_bounds,
    gaussian_bound,
    gaussian_epsilon,
)
from zoft.privacy.audit.result import AuditResult, Bound
from zoft.privacy.audit.scores import STATISTICS, Array, scores
from zoft.privacy.audit.subjects import CANARIES, Subject, mechanism_subject, with_public_seeds_replayed
from zoft.privacy.plan import PrivacyPlan

LARGER_DELTAS = (0.01, 0.03, 0.1)
"""A promise at one delta is one at each. At these, few repetitions tell more than at the promised one."""

CONFIDENCE = 0.95

CAUTION = 100.0
"""How to guess is chosen by bounds that miss so many times less often, or a lucky tail would be chosen."""


def audit_release(
    plan: PrivacyPlan,
    *,
    draws: int,
    canary: str = "saturating",
    confidence: float = CONFIDENCE,
    seeds_are_known: bool = False,
    together: int = 64,
    progress: bool = True,
) -> AuditResult:
    """Audit one release of a batch that holds one other example, and the canary or not.

    One release of the Gaussian mechanism obeys Gaussian differential privacy exactly: claim and bound are by that.

    Args:
        plan: The run's plan; of one release, what its batches are sampled by does not matter.
        draws: Repetitions with the canary, and as many without it.
        canary: Name of the canary, of :data:`~zoft.privacy.audit.subjects.CANARIES`.
        confidence: A mechanism that keeps the promise is called a violation with at most one minus this probability.
        seeds_are_known: The adversary knows all public seeds, and takes off what they repeat.
        together: How many draws are noised in one call.
        progress: Whether to show a progress bar.

    Raises:
        ConfigError: If there is no such canary, or a number is out of range.
    """
    check_choice("canary", canary, CANARIES)
    alpha = _alpha(confidence)
    single = replace(plan, num_examples=plan.expected_batch_size, steps=1)
    subject = mechanism_subject(single, canary=canary, others=1)
    what = f"one release, {canary} canary"
    if seeds_are_known:
        subject, what = with_public_seeds_replayed(subject), f"{what}, public seeds known"
    absent, present = _observed(subject, single, 1, draws, together, progress and what)
    if plan.config.dp_mechanism == "laplace":
        bounds = [_epsilon_at(0.0, single, absent, present, alpha)]
    else:
        delta = _delta(single)
        statistic, mu = _measured(absent, present, alpha, gaussian_bound)
        claimed = gaussian_epsilon(1.0 / plan.noise_multiplier, delta)
        bounds = [Bound(delta, claimed, gaussian_epsilon(mu, delta), statistic)]
    return AuditResult(what, draws, confidence, tuple(bounds))


def audit_run(
    plan: PrivacyPlan,
    *,
    runs: int,
    canary: str = "saturating",
    confidence: float = CONFIDENCE,
    subject: Subject | None = None,
    together: int = 64,
    progress: bool = True,
) -> AuditResult:
    """Audit a run whose data set is the canary alone, or empty: what the sampling hides, nothing else does.

    There are two bounds on epsilon, which share what confidence leaves: one at the promised delta, and one at the
    larger delta at which the first half of the runs exceeded the promise by most.

    Args:
        plan: The run's plan.
        runs: Repetitions with the canary, and as many without it.
        canary: Name of the canary, of :data:`~zoft.privacy.audit.subjects.CANARIES`; a subject brings its own.
        confidence: A run that keeps the promise is called a violation with at most one minus this probability.
        subject: What runs, in place of the sampler and the mechanism alone. Its canary must add +1 clip threshold in
            the direction ``(1, ..., 1)`` to the sum of each batch that it is in.
        together: How many runs a subject is asked for at once.
        progress: Whether to show a progress bar.

    Raises:
        ConfigError: If there is no such canary, or a number is out of range.
    """
    check_choice("canary", canary, CANARIES)
    alpha = _alpha(confidence)
    what = f"a run of {plan.steps} releases"
    if subject is None:
        subject, what = mechanism_subject(plan, canary=canary, others=0), f"{what}, {canary} canary"
    absent, present = _observed(subject, plan, 0, runs, together, progress and what)
    if plan.config.dp_mechanism == "laplace":
        return AuditResult(what, runs, confidence, (_epsilon_at(0.0, plan, absent, present, alpha),))
    alpha /= 2.0

    def exceeds(delta: float) -> float:
        return _chosen(absent, present, alpha, _value_at(delta))[-1] - _claimed(plan, delta)

    deltas = (_delta(plan), max(LARGER_DELTAS, key=exceeds))
    return AuditResult(
        what, runs, confidence, tuple(_epsilon_at(delta, plan, absent, present, alpha) for delta in deltas)
    )


def _observed(
    subject: Subject, plan: PrivacyPlan, others: int, repetitions: int, together: int, label: str | bool
) -> tuple[Array, Array]:
    """Return the scores of repetitions without the canary, and with it, each ``[repetitions, 2 * statistics]``."""
    check_count("together", together)
    if repetitions < 2:
        raise ConfigError(
            f"an audit needs at least 2 repetitions, one to choose by and one to measure; got {repetitions}."
        )
    seen: dict[bool, list[Array]] = {False: [], True: []}
    with tqdm(total=2 * repetitions, desc=str(label), disable=not label, unit="run") as bar:
        for start in range(0, repetitions, together):
            count = min(together, repetitions - start)
            for present, of_side in seen.items():
                of_side.append(scores(subject(present, count), plan, others))
            bar.update(2 * count)
    # Less may speak for the canary as well as more.
    without, with_it = (np.concatenate([of, -of], axis=1) for of in map(np.concatenate, seen.values()))
    return without, with_it


def _chosen(absent: Array, present: Array, alpha: float, value: Value) -> tuple[int, float, float]:
    """Return the column and the threshold that are worth most in the first half of the repetitions, and what."""
    half = len(absent) // 2
    columns = range(absent.shape[1])
    found = [best_threshold(absent[:half, c], present[:half, c], alpha / CAUTION, value) for c in columns]
    column = max(columns, key=lambda c: found[c][1])
    return column, *found[column]


def _measured(absent: Array, present: Array, alpha: float, value: Value) -> tuple[str, float]:
    """Return the statistic that the first half chooses, and what guessing by it is worth in the second."""
    half = len(absent) // 2
    column, threshold, _ = _chosen(absent, present, alpha, value)
    rates = error_bounds(absent[half:, column], present[half:, column], np.array([threshold]), alpha)
    return STATISTICS[column % len(STATISTICS)], float(value(*rates)[0])


def _epsilon_at(delta: float, plan: PrivacyPlan, absent: Array, present: Array, alpha: float) -> Bound:
    statistic, measured = _measured(absent, present, alpha, _value_at(delta))
    return Bound(delta, _claimed(plan, delta), measured, statistic)


def _value_at(delta: float) -> Value:
    return lambda false_positive, false_negative: epsilon_bound(false_positive, false_negative, delta)


def _claimed(plan: PrivacyPlan, delta: float) -> float:
    """Return the accountant's epsilon; never below 0, where it has nothing to say."""
    config = plan.config
    return max(0.0, epsilon([(plan.release, plan.steps)], delta=delta, accountant=config.dp_accountant))


def _delta(plan: PrivacyPlan) -> float:
    assert plan.config.dp_target_delta is not None  # the Gaussian mechanism has one
    return plan.config.dp_target_delta


def _alpha(confidence: float) -> float:
    """Return with which probability each of the two bounds on error rates may miss."""
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"confidence must be in (0, 1), got {confidence!r}.")
    return (1.0 - confidence) / 2.0
