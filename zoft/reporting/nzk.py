"""Table and figures of ``zoft-bench nzk``, from the results in its ``results.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoft.reporting.figures import require_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "table"]

Result = Mapping[str, Any]
"""One of the ``results``: the fields of :class:`zoft.bench.nzk.results.Result`."""

COLOURS = {"mezo": "C0", "nzk_shared": "C1", "nzk_independent": "C2", "per_example": "C3"}
KIND_COLOURS = {"step": "C0", "shared": "C1", "independent": "C2"}
TARGET = 0.02  # the error that a kernel's average is to come under


def table(results: Sequence[Result]) -> str:
    """Return the figures that matter, as text."""
    return "\n\n".join(
        "\n".join(
            [
                f"{_title(result)}, {result['num_examples']} examples",
                f"  {'kernel':31} {'factor':>10} {'theory':>10} {'error':>8}",
                *(
                    f"  {check['kind'] + ', ' + check['distribution']:31} {check['factor']:10.4g} "
                    f"{check['expected_factor']:10.4g} {check['errors'][-1]:8.1%}"
                    for check in result["kernels"]
                ),
                f"  {'training':31} {'lr':>10} {'last loss':>10} {'theory':>10} {'deviation':>10}",
                *(
                    f"  {_curve_name(curve, result) + ', ' + curve['step_size'] + ' lr':31} {curve['lr']:10.3g} "
                    f"{curve['measured'][-1]:10.4g} {curve['expected'][-1]:10.4g} {curve['deviation']:10.1%}"
                    for curve in result["curves"]
                ),
                f"  {'acceleration':43} {'measured':>10} {'theory':>10}",
                *(
                    f"  {' '.join((a['fast'], 'over', a['slow'] + ',', a['step_size'], 'lr')):43} "
                    f"{_times(a['measured']):>10} {_times(a['expected']):>10}"
                    for a in result["accelerations"]
                ),
            ]
        )
        for result in results
    )


def draw(results: Sequence[Result], folder: Path) -> list[Path]:
    """Draw the kernels' errors, the training curves of each experiment, and the kernels' drift.

    Args:
        results: At least one.
        folder: Where the PNG files go.

    Returns:
        The files.

    Raises:
        ConfigError: If matplotlib is not installed.
    """
    require_matplotlib()
    figures = {"kernels": _kernels(results), "drift": _drift(results)}
    figures |= {f"training_{result['dataset']}_{result['model']}": _training(result) for result in results}
    files = []
    for name, figure in figures.items():
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=100, pil_kwargs={"optimize": True})
    return files


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(1.0 + 3.8 * columns, 0.8 + 3.0 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten().tolist()
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes[:count]


def _kernels(results: Sequence[Result]) -> Figure:
    figure, panels = _panels(len(results))
    for axes, result in zip(panels, results, strict=True):
        for check in result["kernels"]:
            style = "-o" if check["distribution"] == "gaussian" else "--s"
            label = f"{check['kind']}, {check['distribution']}"
            axes.loglog(
                check["draws"], check["errors"], style, color=KIND_COLOURS[check["kind"]], label=label, markersize=4
            )
        axes.axhline(TARGET, color="grey", linewidth=1, linestyle=":", label=f"{TARGET:.0%}")
        axes.set(title=_title(result), xlabel="draws of z", ylabel="relative error")
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2 * min(len(panels), 3),
        fontsize="small",
    )
    figure.suptitle("Averaged kernels against their closed forms")
    return figure


def _training(result: Result) -> Figure:
    figure, panels = _panels(2)
    for axes, step_size in zip(panels, ("equal", "tuned"), strict=True):
        for curve in result["curves"]:
            if curve["step_size"] != step_size:
                continue
            name, own = _curve_name(curve, result), curve["trained"] == result["model"]
            colour = COLOURS[curve["rule"]] if own else "C4"
            steps = [max(step, 0.7) for step in curve["steps"]]  # a logarithmic axis has no place for 0
            width = 3.2 if curve["rule"] == "mezo" and own else 1.4  # seen under those that cover it
            axes.loglog(steps, curve["measured"], color=colour, label=name, linewidth=width)
            axes.loglog(steps, curve["expected"], "--", color=colour if own else "black", linewidth=1.1)
        if result["floor"] > 0.0:
            axes.axhline(result["floor"], color="grey", linewidth=1, linestyle=":")
        axes.set(title=f"{step_size} learning rate", xlabel="iteration", ylabel="squared loss")
        axes.legend(fontsize="small", loc="lower left")
    figure.suptitle(f"{_title(result)}: training (solid) and closed form (dashed)")
    return figure


def _drift(results: Sequence[Result]) -> Figure:
    datasets = list(dict.fromkeys(result["dataset"] for result in results))
    figure, panels = _panels(len(datasets))
    for axes, dataset in zip(panels, datasets, strict=True):
        for result in results:
            if result["dataset"] != dataset:
                continue
            for drift in result["drifts"]:
                axes.plot(drift["steps"], drift["change"], "-o", label=drift["trained"], markersize=4)
        axes.set(title=dataset, xlabel="iteration", ylabel="relative change")
        axes.set_xscale("symlog", linthresh=1)
        axes.set_ylim(bottom=-0.02)
        axes.legend(fontsize="small")
    figure.suptitle("Change of the kernel as MeZO trains")
    return figure


def _title(result: Result) -> str:
    return f"{result['dataset']}, {result['model']} (d = {result['dimension']})"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.3g}x"


def _curve_name(curve: Mapping[str, Any], result: Result) -> str:
    own = curve["trained"] == result["model"]
    return str(curve["rule"] if own else f"{curve['rule']}, linearised")
