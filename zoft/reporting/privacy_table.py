"""A table of budgets: which noise multiplier each needs."""

from __future__ import annotations

from collections.abc import Sequence

from zoft.markdown import table
from zoft.privacy.plan import PrivacyPlan
from zoft.reporting.privacy_facts import at_delta, noise_std
from zoft.reporting.report import Section


def table_section(plans: Sequence[PrivacyPlan]) -> Section:
    """Tabulate the noise of plans that differ in steps, expected batch size and target epsilon.

    Args:
        plans: One for each combination, at least one; of one mechanism, accountant, delta and number of examples.
    """
    first = plans[0]
    targets = list(dict.fromkeys(plan.config.dp_target_epsilon for plan in plans))
    noise = {(p.steps, p.expected_batch_size, p.config.dp_target_epsilon): p for p in plans}
    rows = [["steps", "expected batch size", *(f"epsilon {target:g}" for target in targets)]]
    for steps, batch in dict.fromkeys((p.steps, p.expected_batch_size) for p in plans):
        cells = [_cell(noise[steps, batch, target]) for target in targets]
        rows.append([str(steps), str(batch), *cells])
    by = "" if first.config.dp_mechanism == "laplace" else f", accountant {first.config.dp_accountant}"
    text = [
        "## Noise multipliers",
        f"{first.config.dp_mechanism.capitalize()} mechanism{at_delta(first)}{by}, {first.num_examples} examples, "
        "Poisson sampling, add/remove adjacency. In brackets: standard deviation of the noise in a released mean "
        "slope, over the clip threshold.",
        table(rows),
    ]
    entries = [
        {
            "steps": p.steps,
            "expected_batch_size": p.expected_batch_size,
            "target_epsilon": p.config.dp_target_epsilon,
            "noise_multiplier": p.noise_multiplier,
            "noise_std_over_clip_threshold": noise_std(p, 1.0),
        }
        for p in plans
    ]
    data = {
        "num_examples": first.num_examples,
        "delta": first.config.dp_target_delta,
        "mechanism": first.config.dp_mechanism,
        "accountant": first.config.dp_accountant,
        "entries": entries,
    }
    return Section("noise_multipliers", "\n\n".join(text), data)


def _cell(plan: PrivacyPlan) -> str:
    return f"{plan.noise_multiplier:.3f} ({noise_std(plan, 1.0):.3g})"
