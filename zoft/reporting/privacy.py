"""The section on privacy: what runs promised, what they have spent and released, from their logs alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

import zoft
from zoft.log_file import ReplayLog
from zoft.markdown import table
from zoft.privacy.clip_quantile import threshold_after
from zoft.privacy.plan import PrivacyPlan
from zoft.reporting.figures import legend, one_plot
from zoft.reporting.privacy_facts import ASSUMPTIONS, at_delta, facts, noise_std, promise
from zoft.reporting.report import Drawing, Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 20  # of the curve of epsilon over steps
ROWS = 5  # of them, and of the clip thresholds, in a table

Run = Mapping[str, Any]
"""What the section's data say of one private run: see :func:`describe`."""


def privacy_section(runs: Mapping[str, ReplayLog | None]) -> Section:
    """Report on runs, private or not.

    Args:
        runs: Their logs, by the names that the user gave them; None for a run by gradients, which has none.
    """
    described = {name: describe(log) for name, log in runs.items()}
    private = {name: run for name, run in described.items() if run["private"]}
    text = ["## Privacy", *(_run(name, run) for name, run in described.items())]
    data: dict[str, Any] = {"runs": described}
    if len(runs) > 1:
        data["together"] = together(list(described.values()))
        text.append(_together(data["together"], len(runs)))
    if private:
        data["assumptions"] = list(ASSUMPTIONS)
        text += ["### What this rests on", "\n".join(f"- {assumption}" for assumption in ASSUMPTIONS)]
    text.append(f"Made by zoft {zoft.__version__} from the log alone; accounted by Opacus {version('opacus')}.")
    drawings = [
        Drawing("Epsilon over the steps: spent (solid), planned (dashed), promised (dotted).", lambda: _costs(private))
    ]
    if measured := {name: run for name, run in private.items() if run["clip"]["trajectory"]}:
        drawings.append(Drawing("The clip threshold while it was measured.", lambda: _clips(measured)))
    return Section("privacy", "\n\n".join(text), data, tuple(drawings) if private else ())


def describe(log: ReplayLog | None) -> dict[str, Any]:
    """Return what a log says of its run's privacy, as plain JSON types."""
    if log is None:
        return {"private": False, "steps": None}
    if "privacy" not in log.header:
        return {"private": False, "steps": len(log.records)}
    plan = PrivacyPlan.from_dict(log.header["privacy"])
    measuring = min(plan.measuring_steps, len(log.records))
    trajectory = _trajectory(plan, [record.scalars[0] for record in log.records[:measuring]])
    clip = trajectory[-1] if trajectory else plan.first_clip
    released = [scalar for record in log.records[measuring:] for scalar in record.scalars]
    costs = _epsilons(plan, log.intents)
    return {
        "private": True,
        "plan": plan.to_dict(),
        "steps": len(log.records),
        "charges": log.intents,
        "charges_without_step": log.intents - len(log.records),
        "spent": {"epsilon": dict(costs)[log.intents], "delta": plan.config.dp_target_delta},
        "epsilon_over_steps": [[steps, cost] for steps, cost in costs],
        "released": {
            "vectors": len(log.records) - measuring,
            "numbers_each": plan.num_scalars,
            "shares": measuring,
            "rms": math.sqrt(math.fsum(x * x for x in released) / len(released)) if released else None,
            "noise_std": noise_std(plan, clip),
        },
        "clip": {"threshold": clip, "trajectory": trajectory},
        "earlier_logs": sorted(str(path) for path in log.path.parent.glob(f"{log.path.name}.*[0-9]")),
    }


def together(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what runs cost if they were over the same examples, by simple composition: sums of epsilons and deltas."""
    private = [run["spent"] for run in runs if run["private"]]
    return {
        "epsilon": math.fsum(spent["epsilon"] for spent in private),
        "delta": math.fsum(spent["delta"] or 0.0 for spent in private),
        "not_private": len(runs) - len(private),
    }


def _epsilons(plan: PrivacyPlan, charges: int) -> list[tuple[int, float]]:
    """Return the cost of numbers of steps up to the plan's end, that of the present one among them."""
    most = max(plan.steps, charges)
    steps = sorted({0, charges, *(max(1, most * point // POINTS) for point in range(1, POINTS + 1))})
    costs = [plan.epsilon(count) for count in tqdm(steps, desc="accounting", disable=None, leave=False)]
    # An accountant's numerical error may take back a little, as for the run itself.
    return list(zip(steps, accumulate(costs, max), strict=True))


def _trajectory(plan: PrivacyPlan, shares: Sequence[float]) -> list[float]:
    """Return the clip thresholds before each measuring step and after the last; empty if none is measured."""
    quantile = plan.config.dp_clip_quantile
    if quantile is None:
        return []
    return [
        threshold_after(shares[:count], first=plan.first_clip, quantile=quantile) for count in range(len(shares) + 1)
    ]


# --- text -----------------------------------------------------------------------------------------------


def _run(name: str, run: Run) -> str:
    title = f"### `{name}`"
    if run["steps"] is None:
        return f"{title}\n\n**Not private.** It trained by gradients, and its weights are made of them."
    if not run["private"]:
        return (
            f"{title}\n\n**Not private.** Each of the {run['steps']} steps in the log holds an exact loss and exact "
            "slopes of the training examples, and so do the weights. It promises nothing to anybody whose data were in "
            "the training set."
        )
    plan = PrivacyPlan.from_dict(run["plan"])
    spent, target = run["spent"]["epsilon"], plan.config.dp_target_epsilon
    share = "" if target is None else f", {spent / target:.0%} of what was promised"
    parts = [
        title,
        f"**Spent: epsilon {spent:.4g}{at_delta(plan)}**{share}. {run['charges']} steps are paid for, of "
        f"{plan.steps} that were planned.",
        table(
            [
                ("", "of the run"),
                ("promise", promise(plan)),
                *facts(plan),
                ("released so far", _released(run)),
                ("noise in a released mean slope", _signal(run)),
                ("charges without a step", _wasted(run)),
            ]
        ),
        table([("steps", "epsilon"), *_cost_rows(run)]),
    ]
    if trajectory := run["clip"]["trajectory"]:
        rows = [(str(n), f"{clip:.4g}") for n, clip in _some(list(enumerate(trajectory)))]
        parts.append(table([("measuring steps taken", "clip threshold"), *rows]))
    if run["earlier_logs"]:
        names = ", ".join(f"`{path}`" for path in run["earlier_logs"])
        parts.append(
            f"**Earlier runs' logs are in this folder: {names}.** If they were over the same examples, their costs add "
            "to this one's: name them too."
        )
    return "\n\n".join(parts)


def _cost_rows(run: Run) -> list[tuple[str, str]]:
    """Return a few points of the curve, the present one among them."""
    curve, charges = run["epsilon_over_steps"], run["charges"]
    shown = {steps for steps, _ in _some(curve)} | {charges}
    return [
        (f"{steps}, now" if steps == charges else str(steps), f"{cost:.4g}") for steps, cost in curve if steps in shown
    ]


def _released(run: Run) -> str:
    released = run["released"]
    numbers = "1 number" if released["numbers_each"] == 1 else f"{released['numbers_each']} numbers"
    shares = (
        f", after {released['shares']} noised shares that measured the clip threshold" if released["shares"] else ""
    )
    return f"{released['vectors']} noised vectors of {numbers}{shares}"


def _signal(run: Run) -> str:
    """Compare noise with what was released, which is public: so is what is made of it."""
    released = run["released"]
    std = f"standard deviation {released['noise_std']:.4g}, at clip threshold {run['clip']['threshold']:.4g}"
    if released["rms"] is None:
        return std
    return f"{std}; the released numbers' root mean square is {released['rms']:.4g}, slopes and noise together"


def _wasted(run: Run) -> str:
    count = run["charges_without_step"]
    if not count:
        return "0"
    return f"{count}: interrupted after they were paid for (or, in a run that goes on, the last is being computed)"


def _together(costs: Mapping[str, Any], count: int) -> str:
    parts = [
        "### Together",
        f"If these runs were over the same examples, they have cost epsilon {costs['epsilon']:.4g} at delta "
        f"{costs['delta']:g} together, by simple composition: their epsilons and deltas added up.",
    ]
    if costs["not_private"]:
        parts.append(f"**{costs['not_private']} of the {count} are not private, so together they promise nothing.**")
    return "\n\n".join(parts)


def _some(rows: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    """Return evenly spaced rows, the first and the last among them."""
    last = len(rows) - 1
    return [rows[at] for at in sorted({last * part // ROWS for part in range(ROWS + 1)})]


# --- figures --------------------------------------------------------------------------------------------


def _costs(runs: Mapping[str, Run]) -> Figure:
    figure, axes = one_plot("steps", "epsilon")
    for place, (name, run) in enumerate(runs.items()):
        colour, charges = f"C{place % 10}", run["charges"]
        for style, points in (
            ("-", [p for p in run["epsilon_over_steps"] if p[0] <= charges]),
            ("--", [p for p in run["epsilon_over_steps"] if p[0] >= charges]),
        ):
            axes.plot(*zip(*points, strict=True), style, color=colour)
        axes.plot([charges], [run["spent"]["epsilon"]], "o", color=colour, label=name)
        target = run["plan"]["config"]["dp_target_epsilon"]
        if target is not None:
            axes.axhline(target, color=colour, linewidth=1, linestyle=":")
    axes.set(ylim=(0.0, None), xlim=(0.0, None))
    return legend(figure, axes, len(runs), "lower right")


def _clips(runs: Mapping[str, Run]) -> Figure:
    figure, axes = one_plot("measuring steps taken", "clip threshold")
    for place, (name, run) in enumerate(runs.items()):
        axes.plot(run["clip"]["trajectory"], "-o", color=f"C{place % 10}", markersize=3, label=name)
    axes.set_yscale("log")
    return legend(figure, axes, len(runs))
