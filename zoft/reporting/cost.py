"""The section on what runs took: memory and time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zoft.markdown import plain, table
from zoft.reporting.figures import legend, one_plot
from zoft.reporting.report import Drawing, Section
from zoft.reporting.runs import Run
from zoft.reporting.thinning import thinned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CURVES = {"tokens_per_second": "training tokens a second", "peak_memory_gib": "peak memory (GiB)"}


def cost_section(runs: Sequence[Run]) -> Section:
    """Show memory and time, of runs that are not private."""
    public = [run for run in runs if not run.private]
    described = {run.name: describe(run) for run in public}
    labelled = {run.label: described[run.name] for run in public}
    text = ["## Memory and time"]
    if len(public) < len(runs):
        text.append(
            "How long a private run takes, and in how much memory, tells how many examples its batches had: neither is "
            "reported."
        )
    rows = _rows(labelled)
    if len(rows) > 1:
        text.append(table(rows))
    elif public:
        text.append("Not known: there is neither a `metrics.json` nor what a Trainer logged.")
    drawings = tuple(
        _drawing(key, labelled) for key in _CURVES if any(len(of["curves"][key]) > 1 for of in labelled.values())
    )
    return Section("cost", "\n\n".join(text), {"runs": described}, drawings)


def describe(run: Run) -> dict[str, Any]:
    """Return what a run took, as plain JSON types; None where it is not known.

    ``train_seconds`` are those of the last call: earlier ones of a resumed run do not count.
    """
    measured = run.measured or {}
    tokens, peaks = run.points("tokens_per_second"), run.points("peak_memory_gib")
    runtimes = run.points("train_runtime")
    return {
        "train_seconds": measured.get("train_seconds", runtimes[-1][1] if runtimes else None),
        "tokens_per_second": float(np.median([value for _, value in tokens])) if tokens else None,
        "peak_memory_gib": measured.get("peak_memory_gib", max((value for _, value in peaks), default=None)),
        "placement": measured.get("placement"),
        "processes": measured.get("processes"),
        "curves": {"tokens_per_second": thinned(tokens), "peak_memory_gib": thinned(peaks)},
    }


def _rows(labelled: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    def row(title: str, key: str, show: Callable[[Any], str]) -> list[str]:
        return [title, *("" if of[key] is None else show(of[key]) for of in labelled.values())]

    rows = [
        row("training time, of the last call", "train_seconds", _duration),
        row("training tokens a second, median", "tokens_per_second", lambda value: f"{value:,.0f}"),
        row("peak memory", "peak_memory_gib", lambda value: f"{value:.2f} GiB"),
        row("perturbed weights are kept in", "placement", plain),
        row("processes", "processes", str),
    ]
    return [["", *map(plain, labelled)], *(cells for cells in rows if any(cells[1:]))]


def _duration(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _drawing(key: str, labelled: Mapping[str, Mapping[str, Any]]) -> Drawing:
    def draw() -> Figure:
        figure, axes = one_plot("step", _CURVES[key])
        for place, (label, of) in enumerate(labelled.items()):
            if of["curves"][key]:
                axes.plot(*zip(*of["curves"][key], strict=True), color=f"C{place % 10}", label=label)
        axes.set_ylim(bottom=0.0)
        return legend(figure, axes, len(labelled))

    return Drawing(f"{_CURVES[key].capitalize().replace('gib', 'GiB')} over the steps.", draw)
