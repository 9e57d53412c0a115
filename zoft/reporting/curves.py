"""The section on what was learned while the run went on: losses, scores, learning rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoft.markdown import plain, table
from zoft.reporting.figures import legend, one_plot
from zoft.reporting.report import Drawing, Section
from zoft.reporting.runs import Run
from zoft.reporting.thinning import mean, thinned, windows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = Sequence[Sequence[float]]
"""Points (step, value)."""

SMOOTH = 24  # windows of the thick line through the losses of single batches

# What a Trainer logs of an evaluation, or a run of its scores, beside scores.
_NO_SCORES = ("n", "majority_share", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


def curves_section(runs: Sequence[Run]) -> Section:
    """Show losses, held-out scores and learning rates over the steps."""
    described = {run.name: describe(run) for run in runs}
    labelled = {run.label: described[run.name] for run in runs}
    rows = _rows(labelled)
    text = ["## Curves", table(rows) if len(rows) > 1 else "There are none yet."]
    if any(run.private for run in runs):
        text.append("The losses of a private run's training examples are secret: it has no curve of them.")
    drawings = []
    if any(of["training_loss"] or "loss" in of["held_out"] for of in labelled.values()):
        drawings.append(
            Drawing(
                "Loss over the steps: on training batches (pale), their running mean (solid), and on held-out rows "
                "(dots).",
                lambda: _losses(labelled),
            )
        )
    scores = dict.fromkeys(name for of in labelled.values() for name in of["held_out"] if name != "loss")
    drawings += [_score_drawing(name, labelled) for name in scores]
    if any(of["learning_rates"] for of in labelled.values()):
        drawings.append(Drawing("Learning rate over the steps.", lambda: _rates(labelled)))
    return Section("curves", "\n\n".join(text), {"runs": described}, tuple(drawings))


def describe(run: Run) -> dict[str, Any]:
    """Return a run's curves, thinned, as plain JSON types."""
    steps, losses = run.losses
    tenth = max(1, len(losses) // 10)
    return {
        "steps": run.steps,
        "training_loss": windows(steps, losses, mean),
        "training_loss_smooth": windows(steps, losses, mean, SMOOTH),
        "first_tenth": mean(losses[:tenth]) if len(losses) else None,
        "last_tenth": mean(losses[-tenth:]) if len(losses) else None,
        "skipped_steps": sum(record.skipped for record in run.log.records),
        "held_out": {name: thinned(points) for name in _score_names(run) if (points := _held_out(run, name))},
        "learning_rates": _learning_rates(run),
    }


def _score_names(run: Run) -> list[str]:
    logged = [key.removeprefix("eval_") for entry in run.history for key in entry if key.startswith("eval_")]
    measured = [
        name for scores in run.scores.values() for name, value in scores.items() if isinstance(value, (int, float))
    ]
    return [name for name in dict.fromkeys([*measured, *logged]) if name not in _NO_SCORES]


def _held_out(run: Run, name: str) -> list[tuple[float, float]]:
    """Return a score before, during and after training."""
    points: dict[float, float] = {float(step): value for step, value in run.points(f"eval_{name}")}
    for when, step in (("before", 0), ("after", run.steps)):
        if name in run.scores.get(when, ()):
            points.setdefault(float(step), float(run.scores[when][name]))
    return sorted(points.items())


def _learning_rates(run: Run) -> list[list[tuple[float, float]]]:
    """Return the curves of parameter groups, of which many have the same."""
    groups = dict.fromkeys(zip(*(record.lrs for record in run.log.records), strict=True))
    return [thinned([(float(step), lr) for step, lr in enumerate(group, start=1)]) for group in groups]


def _rows(labelled: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    rows = [
        ["", *map(plain, labelled)],
        ["training loss, mean of the first tenth", *(_number(of["first_tenth"]) for of in labelled.values())],
        ["training loss, mean of the last tenth", *(_number(of["last_tenth"]) for of in labelled.values())],
        ["held-out evaluations", *(_evaluations(of["held_out"]) for of in labelled.values())],
        ["learning rate, first to last", *(_first_to_last(of["learning_rates"]) for of in labelled.values())],
    ]
    if any(of["skipped_steps"] for of in labelled.values()):
        rows.append(["steps skipped", *(str(of["skipped_steps"]) for of in labelled.values())])
    return [rows[0], *(cells for cells in rows[1:] if any(cells[1:]))]


def _evaluations(held_out: Mapping[str, Curve]) -> str:
    return str(max(map(len, held_out.values()))) if held_out else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _first_to_last(groups: Sequence[Curve]) -> str:
    return "; ".join(f"{curve[0][1]:.3g} to {curve[-1][1]:.3g}" for curve in groups)


# --- figures --------------------------------------------------------------------------------------------


def _losses(labelled: Mapping[str, Mapping[str, Any]]) -> Figure:
    figure, axes = one_plot("step", "loss")
    for place, (label, of) in enumerate(labelled.items()):
        colour = f"C{place % 10}"
        if of["training_loss"]:
            axes.plot(*zip(*of["training_loss"], strict=True), color=colour, alpha=0.3, linewidth=0.8)
            axes.plot(*zip(*of["training_loss_smooth"], strict=True), color=colour, label=label)
        if "loss" in of["held_out"]:
            name = None if of["training_loss"] else label
            axes.plot(*zip(*of["held_out"]["loss"], strict=True), "o--", color=colour, markersize=4, label=name)
    return legend(figure, axes, len(labelled))


def _score_drawing(name: str, labelled: Mapping[str, Mapping[str, Any]]) -> Drawing:
    words = name.replace("_", " ")

    def draw() -> Figure:
        figure, axes = one_plot("step", f"held-out {words}")
        for place, (label, of) in enumerate(labelled.items()):
            if name in of["held_out"]:
                axes.plot(*zip(*of["held_out"][name], strict=True), "o-", color=f"C{place % 10}", label=label)
        return legend(figure, axes, len(labelled))

    return Drawing(f"Held-out {words} over the steps.", draw)


def _rates(labelled: Mapping[str, Mapping[str, Any]]) -> Figure:
    figure, axes = one_plot("step", "learning rate")
    for place, (label, of) in enumerate(labelled.items()):
        for number, curve in enumerate(of["learning_rates"]):
            style = ("-", "--", ":")[number % 3]
            axes.plot(*zip(*curve, strict=True), style, color=f"C{place % 10}", label=label if number == 0 else None)
    axes.set_ylim(bottom=0.0)
    return legend(figure, axes, len(labelled))
