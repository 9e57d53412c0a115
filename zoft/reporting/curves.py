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
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = Sequence[Sequence[float]]
"""Points (step, value)."""

SMOOTH = 24  # windows of the thick line through the losses of single batches

_MEASURED = "on held-out rows before and after (diamonds), as evaluated while it trained (dots)"

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
    names = dict.fromkeys(n for of in labelled.values() for n in (*of["before_and_after"], *of["evaluations"]))
    if "loss" in names or any(of["training_loss"] for of in labelled.values()):
        drawings.append(
            Drawing(
                f"Loss over the steps: on training batches (pale), their running mean (solid), {_MEASURED}.",
                lambda: _losses(labelled),
            )
        )
    scores = [name for name in names if name != "loss"]
    drawings += [_score_drawing(name, labelled) for name in scores]
    if any(of["learning_rates"] for of in labelled.values()):
        drawings.append(Drawing("Learning rate over the steps.", lambda: _rates(labelled)))
    return Section("curves", "\n\n".join(text), {"runs": described}, tuple(drawings))


def describe(run: Run) -> dict[str, Any]:
    """Return a run's curves, thinned, as plain JSON types."""
    steps, losses = run.losses
    names = _score_names(run)
    tenth = max(1, len(losses) // 10)
    return {
        "steps": run.steps,
        "training_loss": windows(steps, losses, mean),
        "training_loss_smooth": windows(steps, losses, mean, SMOOTH),
        "first_tenth": mean(losses[:tenth]) if len(losses) else None,
        "last_tenth": mean(losses[-tenth:]) if len(losses) else None,
        "skipped_steps": sum(record.skipped for record in run.records),
        "evaluations": {name: thinned(points) for name in names if (points := run.points(f"eval_{name}"))},
        "before_and_after": {name: points for name in names if (points := _before_and_after(run, name))},
        "learning_rates": _learning_rates(run),
    }


def _score_names(run: Run) -> list[str]:
    logged = [key.removeprefix("eval_") for entry in run.history for key in entry if key.startswith("eval_")]
    measured = [
        name for scores in run.scores.values() for name, value in scores.items() if isinstance(value, (int, float))
    ]
    return [name for name in dict.fromkeys([*measured, *logged]) if name not in _NO_SCORES]


def _before_and_after(run: Run, name: str) -> list[tuple[int, float]]:
    """Return a score on the held-out rows, which may be others than those that were evaluated while it trained."""
    ends = (("before", 0), ("after", run.steps))
    return [(step, float(run.scores[when][name])) for when, step in ends if name in run.scores.get(when, ())]


def _learning_rates(run: Run) -> list[list[tuple[float, float]]]:
    """Return the curves of parameter groups, of which many have the same; without a log, what the Trainer logged."""
    if run.log is None:
        logged = run.points("learning_rate")
        return [thinned(logged)] if logged else []
    groups = dict.fromkeys(zip(*(record.lrs for record in run.records), strict=True))
    return [thinned([(float(step), lr) for step, lr in enumerate(group, start=1)]) for group in groups]


def _rows(labelled: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    rows = [
        ["", *map(plain, labelled)],
        ["training loss, mean of the first tenth", *(_number(of["first_tenth"]) for of in labelled.values())],
        ["training loss, mean of the last tenth", *(_number(of["last_tenth"]) for of in labelled.values())],
        ["evaluations while it trained", *(_evaluations(of["evaluations"]) for of in labelled.values())],
        ["learning rate, first to last", *(_first_to_last(of["learning_rates"]) for of in labelled.values())],
    ]
    if any(of["skipped_steps"] for of in labelled.values()):
        rows.append(["steps that moved no weight", *(str(of["skipped_steps"]) for of in labelled.values())])
    return [rows[0], *(cells for cells in rows[1:] if any(cells[1:]))]


def _evaluations(scores: Mapping[str, Curve]) -> str:
    return str(max(map(len, scores.values()))) if scores else ""


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
        _measured(axes, of, "loss", colour, None if of["training_loss"] else label)
    return legend(figure, axes, len(labelled))


def _score_drawing(name: str, labelled: Mapping[str, Mapping[str, Any]]) -> Drawing:
    words = name.replace("_", " ")

    def draw() -> Figure:
        figure, axes = one_plot("step", words)
        for place, (label, of) in enumerate(labelled.items()):
            _measured(axes, of, name, f"C{place % 10}", label)
        return legend(figure, axes, len(labelled))

    return Drawing(f"{words.capitalize()} over the steps: {_MEASURED}.", draw)


def _measured(axes: Axes, of: Mapping[str, Any], name: str, colour: str, label: str | None) -> None:
    if name in of["before_and_after"]:
        axes.plot(*zip(*of["before_and_after"][name], strict=True), "D:", color=colour, markersize=5, label=label)
        label = None
    if name in of["evaluations"]:
        axes.plot(*zip(*of["evaluations"][name], strict=True), "o--", color=colour, markersize=4, label=label)


def _rates(labelled: Mapping[str, Mapping[str, Any]]) -> Figure:
    figure, axes = one_plot("step", "learning rate")
    for place, (label, of) in enumerate(labelled.items()):
        for number, curve in enumerate(of["learning_rates"]):
            style = ("-", "--", ":")[number % 3]
            axes.plot(*zip(*curve, strict=True), style, color=f"C{place % 10}", label=label if number == 0 else None)
    axes.set_ylim(bottom=0.0)
    return legend(figure, axes, len(labelled))
