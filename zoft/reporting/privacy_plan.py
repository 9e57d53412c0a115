"""What a private run would cost, before it begins, by each accountant."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from zoft.markdown import table
from zoft.privacy.config import ACCOUNTANTS
from zoft.privacy.plan import PrivacyPlan
from zoft.reporting.privacy_facts import (
    ASSUMPTIONS,
    at_delta,
    facts,
    most_signal_to_noise,
    noise_std,
    promise,
)
from zoft.reporting.report import Section

ROWS = 5  # of the table of costs over steps


def plan_section(plan: PrivacyPlan) -> Section:
    """Describe a plan: noise and cost by each accountant that its mechanism has, and what it rests on."""
    plans = {name: p if p == plan else _calibrated(p) for name, p in _accounted(plan).items()}
    costs = epsilons_over_steps(plan)
    std, ratio = noise_std(plan, plan.first_clip), most_signal_to_noise(plan)
    headings = ["by", "noise multiplier", f"epsilon over {plan.steps} steps{at_delta(plan)}"]
    by = [[name, f"{p.noise_multiplier:.4g}", f"{p.epsilon(p.steps):.4g}"] for name, p in plans.items()]
    signal = (
        f"The noise in a released mean slope has standard deviation {std:.4g}"
        + (" before the clip threshold is measured" if plan.measuring_steps else "")
        + f". A step's signal-to-noise ratio is {ratio:.4g} at most, if all its examples agree and reach the clip "
        "threshold."
    )
    text = [
        "## Privacy plan",
        f"Promise: {promise(plan)}.",
        table([headings, *by]),
        f"What the run's own noise (multiplier {plan.noise_multiplier:.4g}) costs:",
        table([["steps", *(f"epsilon by {name}" for name in plans)], *_cost_rows(costs)]),
        table([("", "of the run"), *facts(plan)]),
        signal,
        "### What this rests on",
        "\n".join(f"- {assumption}" for assumption in ASSUMPTIONS),
    ]
    data: dict[str, Any] = {
        "plan": plan.to_dict(),
        "by_accountant": {
            name: {"noise_multiplier": p.noise_multiplier, "epsilon": p.epsilon(p.steps)} for name, p in plans.items()
        },
        "epsilon_over_steps": costs,
        "noise_std": std,
        "most_signal_to_noise": ratio,
        "assumptions": list(ASSUMPTIONS),
    }
    return Section("privacy_plan", "\n\n".join(text), data)


def epsilons_over_steps(plan: PrivacyPlan) -> list[dict[str, float]]:
    """Return what parts of the planned steps cost, by each accountant that the plan's mechanism has."""
    steps = sorted({max(1, plan.steps * part // ROWS) for part in range(1, ROWS + 1)})
    plans = _accounted(plan)
    return [
        {"steps": count, **{name: p.epsilon(count) for name, p in plans.items()}}
        for count in tqdm(steps, desc="accounting", disable=None, leave=False)
    ]


def _accounted(plan: PrivacyPlan) -> dict[str, PrivacyPlan]:
    """Return the plan, with the noise that it has, by each way to account for it."""
    if plan.config.dp_mechanism == "laplace":
        return {"pure epsilon": plan}
    return {
        name: dataclasses.replace(plan, config=dataclasses.replace(plan.config, dp_accountant=name))
        for name in ACCOUNTANTS
    }


def _calibrated(plan: PrivacyPlan) -> PrivacyPlan:
    return PrivacyPlan.of(
        plan.config,
        num_examples=plan.num_examples,
        expected_batch_size=plan.expected_batch_size,
        steps=plan.steps,
        num_scalars=plan.num_scalars,
    )


def _cost_rows(costs: Sequence[dict[str, float]]) -> list[list[str]]:
    return [[f"{int(row['steps'])}", *(f"{x:.4g}" for name, x in row.items() if name != "steps")] for row in costs]
