"""What there is to say of a private run's plan: what it promises, what it publishes, what it rests on."""

from __future__ import annotations

import math
from importlib.metadata import version

from zoft.privacy.plan import PrivacyPlan

ASSUMPTIONS = (
    "Sampling: in each step every example was in the batch with the probability given, independently of the others, "
    "drawn from the operating system's entropy; nobody else learns who was in which batch. Trainers and zoft-train "
    "do so; a loop of one's own has to take its batches from PoissonBatches.",
    "The number of examples, the number of steps and all settings are public, and were not chosen by looking at these "
    "examples in a way that is not counted.",
    "The initial model is public: it was not trained on these examples.",
    "An example is one row. Who has k rows is protected by k times the epsilon, and a delta that grows faster still.",
    "Each example was evaluated alone, so that nothing in floating point (padding, kernels' choices, batch statistics) "
    "makes its slopes depend on the others. Clipping and summing are exact, in integers.",
    "The noise is discrete, on a grid of the clip threshold over 2^20, and accounted as continuous noise of the same "
    "scale.",
    "Not covered: what can be told from how long steps take, from memory, power or network traffic, or by whoever can "
    "read the training process.",
    "Epsilons of several runs over the same examples add up: those of tuning and of runs that were thrown away, too.",
)


def promise(plan: PrivacyPlan) -> str:
    """Say what was promised."""
    target = plan.config.dp_target_epsilon
    if target is None:
        return "no budget: the noise multiplier was given, and training stops at its last step"
    return f"epsilon {target:g}{at_delta(plan)}"


def at_delta(plan: PrivacyPlan) -> str:
    """Return what follows an epsilon."""
    return plan.config.at_delta or " (pure: no delta)"


def noise_std(plan: PrivacyPlan, clip_threshold: float) -> float:
    """Return the standard deviation of the noise in a released mean slope, in the slopes' units."""
    scale = plan.noise_multiplier * clip_threshold / plan.expected_batch_size
    return scale * math.sqrt(2.0) if plan.config.dp_mechanism == "laplace" else scale


def most_signal_to_noise(plan: PrivacyPlan) -> float:
    """Return a bound on a step's signal-to-noise ratio, in L2.

    A sum over a batch of expected size is at most that size times the clip threshold, if all its examples agree.
    """
    return 1.0 / (noise_std(plan, 1.0) * math.sqrt(plan.num_scalars))


def facts(plan: PrivacyPlan) -> list[tuple[str, str]]:
    """Return rows of a table: what holds of a plan, whatever becomes of the run."""
    config = plan.config
    numbers = "1 number" if plan.num_scalars == 1 else f"a vector of {plan.num_scalars} numbers"
    by = "pure epsilons, added up" if config.dp_mechanism == "laplace" else f"{config.dp_accountant} of Opacus"
    rows = [
        ("adjacency", "one example more or less (add/remove)"),
        (
            "released",
            f"each step {numbers}: the noised mean of the examples' slopes along public directions. Not released: "
            "losses, sizes of batches, who was in them",
        ),
        (
            "mechanism",
            f"{config.dp_mechanism}: each example's slopes clipped as one vector, summed, noised once (discrete noise "
            "by OpenDP), divided by the expected batch size",
        ),
        ("noise multiplier", f"{plan.noise_multiplier:.4g}"),
        ("clip threshold", _clip(plan)),
        (
            "sampling",
            f"Poisson, rate {plan.sample_rate:.4g}: {plan.expected_batch_size} of {plan.num_examples} examples a step "
            "are expected",
        ),
        ("planned steps", str(plan.steps)),
        ("accountant", f"{by} {version('opacus')}" if config.dp_mechanism == "gaussian" else by),
    ]
    if config.dp_eval_is_public:
        rows.append(("evaluation", "exact, on data that were said to be public (dp_eval_is_public)"))
    return rows


def _clip(plan: PrivacyPlan) -> str:
    config = plan.config
    if config.dp_clip_quantile is not None:
        return (
            f"measured in the first {config.dp_clip_steps} steps, from {plan.first_clip:.4g}: the norm below which a "
            f"share of {config.dp_clip_quantile:g} of the examples is. Each of these steps releases 1 number, the "
            "noised share"
        )
    return f"{plan.first_clip:.4g}, {'the default' if config.dp_clip_threshold is None else 'given'}"
