"""The section on projected gradients: what the run steered by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zoft.markdown import plain, table
from zoft.reporting.figures import legend, one_plot
from zoft.reporting.report import Drawing, Section
from zoft.reporting.runs import Run
from zoft.reporting.thinning import rms, windows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 61  # most bars of the histogram
COVERED = 0.99  # share of the slopes that the histogram spans; the ends' bars hold those beyond

Described = Mapping[str, Mapping[str, Any]]
"""What :func:`describe` returns, by the runs' labels."""


def projected_grads_section(runs: Sequence[Run]) -> Section:
    """Show how projected gradients are distributed, and how large they were over the steps."""
    described = {run.name: describe(run) for run in runs}
    labelled = {run.label: described[run.name] for run in runs if described[run.name]["count"]}
    text = [
        "## Projected gradients",
        "A projected gradient is the slope of the loss along a random direction z, per unit of z. Their size sets how "
        "far steps move. They are positive as often as negative; a mean many standard errors from 0 says that more "
        "than slopes is in them, such as curvature at a zo_eps that is too large.",
    ]
    if any(run.private for run in runs):
        text.append("Those of a private run are what it published: clipped, averaged and noised.")
    if not labelled:
        text.append("No step was taken along one yet.")
        return Section("projected_grads", "\n\n".join(text), {"runs": described})
    text.append(table(_rows(labelled)))
    drawings = (
        Drawing(
            f"Distribution of projected gradients. The outermost bars hold the {1 - COVERED:.0%} beyond them.",
            lambda: _histograms(labelled),
        ),
        Drawing("Root mean square of projected gradients over the steps.", lambda: _over_steps(labelled)),
    )
    return Section("projected_grads", "\n\n".join(text), {"runs": described}, drawings)


def describe(run: Run) -> dict[str, Any]:
    """Return how a run's projected gradients are distributed, as plain JSON types."""
    steps, slopes = run.slopes
    if not len(slopes):
        return {"count": 0}
    sizes = np.abs(slopes)
    span = float(np.quantile(sizes, COVERED)) or 1.0
    bins = min(BINS, 2 * round(len(slopes) ** 0.5) + 1)  # odd, so that one is around zero
    counts, edges = np.histogram(np.clip(slopes, -span, span), bins=bins, range=(-span, span))
    largest = int(sizes.argmax())
    return {
        "count": len(slopes),
        "mean": float(slopes.mean()),
        "standard_error": float(slopes.std() / np.sqrt(len(slopes))),
        "rms": rms(slopes),
        "median_size": float(np.median(sizes)),
        "zeros": int((slopes == 0.0).sum()),
        "largest": {"value": float(slopes[largest]), "step": int(steps[largest])},
        "quantiles": {str(q): float(np.quantile(slopes, q)) for q in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)},
        "histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
        "rms_over_steps": windows(steps, slopes, rms),
    }


def _rows(labelled: Described) -> list[list[str]]:
    runs = list(labelled.values())
    rows = [
        ["", *map(plain, labelled)],
        ["projected gradients", *(f"{of['count']:,}" for of in runs)],
        ["root mean square", *(f"{of['rms']:.4g}" for of in runs)],
        ["mean, and its standard error", *(f"{of['mean']:.3g} ± {of['standard_error']:.2g}" for of in runs)],
        ["median size", *(f"{of['median_size']:.4g}" for of in runs)],
        ["5% and 95% quantile", *(f"{of['quantiles']['0.05']:.3g}, {of['quantiles']['0.95']:.3g}" for of in runs)],
        ["largest", *(f"{of['largest']['value']:.4g}, in step {of['largest']['step']:,}" for of in runs)],
    ]
    if any(of["zeros"] for of in runs):
        rows.append(["exactly 0", *(f"{of['zeros']:,}" for of in runs)])
    return rows


def _histograms(labelled: Described) -> Figure:
    figure, axes = one_plot("projected gradient (loss per unit of z)", "share")
    for place, (label, of) in enumerate(labelled.items()):
        shares = np.array(of["histogram"]["counts"]) / of["count"]
        colour = f"C{place % 10}"
        axes.stairs(shares, of["histogram"]["edges"], color=colour, label=label)
        axes.stairs(shares, of["histogram"]["edges"], color=colour, fill=True, alpha=0.2)
    return legend(figure, axes, len(labelled))


def _over_steps(labelled: Described) -> Figure:
    figure, axes = one_plot("step", "root mean square")
    for place, (label, of) in enumerate(labelled.items()):
        axes.plot(*zip(*of["rms_over_steps"], strict=True), color=f"C{place % 10}", linewidth=1.0, label=label)
    if all(value > 0.0 for of in labelled.values() for _, value in of["rms_over_steps"]):
        axes.set_yscale("log")
    return legend(figure, axes, len(labelled))
