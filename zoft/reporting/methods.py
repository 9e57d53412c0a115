"""Tables and plots of ``zoft-bench methods``, from its summary (``zoft.bench.summary``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoft.markdown import table

MIB = 2**20

# Below this size of model the memory of a process says nothing about a method.
SMALLEST_MEASURED_MODEL = 32 * MIB

MEMORY_MARGIN = 1.1  # "equal memory": at most this multiple of what the reference takes

DRAWN = 8  # curves in one plot; more cannot be told apart


def markdown(summary: Mapping[str, Any]) -> str:
    """Return all tables of a summary: the ranking, one table a problem, failures, and where it was measured."""
    suite = summary["suite"]
    parts = [
        f"Budget {suite['budget_forwards']} forwards a run, seeds {', '.join(map(str, suite['seeds']))}, learning "
        f"rates tuned on seed {suite['tuning_seed']}. Losses are held-out cross-entropies in nats, with half the width "
        f"of their 95% confidence interval over seeds.",
        "### Mean rank over all problems\n\n"
        + table([("rank", "method"), *((f"{r:.1f}", n) for n, r in summary["ranking"])]),
    ]
    parts += [_problem(name, problem, suite["reference"]) for name, problem in summary["problems"].items()]
    parts.append(summary["caveat"])
    if summary["missing_runs"]:
        parts.append(f"**Incomplete:** {summary['missing_runs']} runs or more are still to be made.")
    if summary["failures"]:
        parts.append("### Failed runs\n\n" + "\n".join(f"- {failure}" for failure in summary["failures"]))
    parts.append("### Where\n\n" + "\n".join(f"- {_environment(where)}" for where in summary["environments"]))
    return "\n\n".join(parts) + "\n"


def plot(summary: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw each problem's curves and learning-rate sensitivity.

    Args:
        summary: The summary.
        folder: Where the PNG files go.

    Returns:
        The files.

    Raises:
        ImportError: If matplotlib is not installed (``pip install zoft[report]``).
    """
    from matplotlib.figure import Figure

    files = []
    for name, problem in summary["problems"].items():
        if not problem["ranking"]:
            continue
        figure = Figure(figsize=(11, 4.5), layout="constrained")
        curves, sensitivity = figure.subplots(1, 2)
        shown = _shown(problem["ranking"], summary["suite"]["reference"])
        lowest = min(problem["methods"][method]["curve"][-1][1] for method in shown)
        start = problem["methods"][shown[0]]["curve"][0][1]
        for place, method in enumerate(shown):
            of, style = problem["methods"][method], {"color": f"C{place}", "label": method}
            forwards, means, halves = zip(*of["curve"], strict=True)
            curves.plot(forwards, means, **style)
            if halves[0] is not None:
                low, high = zip(*[(m - h, m + h) for m, h in zip(means, halves, strict=True)], strict=True)
                curves.fill_between(forwards, low, high, color=style["color"], alpha=0.15, linewidth=0)
            factors, losses, spread = zip(*of["sensitivity"], strict=True)
            sensitivity.errorbar(factors, losses, [h or 0.0 for h in spread], marker="o", capsize=2, **style)
        ceiling = start + 0.25 * (start - lowest)
        for axes in (curves, sensitivity):
            axes.set_ylim(lowest - 0.1 * (start - lowest), max(ceiling, lowest + 1e-3))
            axes.set_ylabel("held-out loss (nats)")
        curves.set(xlabel="forwards", title=f"{name}: dev loss, with 95% intervals over seeds")
        sensitivity.set(xlabel="multiple of the tuned learning rate", title="test loss", xscale="log")
        sensitivity.set_xticks(sorted({f for m in shown for f, *_ in problem["methods"][m]["sensitivity"]}))
        sensitivity.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
        sensitivity.xaxis.set_minor_locator(_no_ticks())
        figure.legend(*curves.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=110)
    return files


def _problem(name: str, problem: Mapping[str, Any], reference: str) -> str:
    methods = problem["methods"]
    parts = [f"### {name}"]
    if not methods:
        return f"### {name}\n\nNo method is complete yet."
    first = methods[problem["ranking"][0]]
    splits = [split for split in ("test", "shifted", "train") if split in first["scores"]]
    measured = first["model_bytes"] >= SMALLEST_MEASURED_MODEL and first["extra_bytes"] is not None
    headings = [f"{split} {measure}" for split in splits for measure in ("loss", "accuracy")]
    last = ["steps", "seconds", *(["memory MiB"] if measured else []), f"against {reference}"]
    rows = [["", "method", "lr", *headings, *last]]
    for place, method in enumerate(problem["ranking"], start=1):
        of = methods[method]
        scores = [cell for split in splits for cell in _score(of["scores"][split])]
        spent = [f"{of['steps']:.0f}", f"{of['seconds']:.2g}", *([f"{_total(of) / MIB:.0f}"] if measured else [])]
        rows.append([str(place), method, _lr(of), *scores, *spent, _against(of) if method != reference else "-"])
    parts.append(table(rows))
    diverged = [f"{method} ({of['diverged']} runs)" for method, of in methods.items() if of["diverged"]]
    if diverged:
        parts.append("Diverged, counted as their last finite loss or as chance: " + ", ".join(diverged) + ".")
    if any(of["lr_at_edge"] for of in methods.values()):
        parts.append("An lr in brackets is at an end of the grid, which was not allowed to grow further.")
    if reference in methods:
        parts.append(_at_equal_time(methods, reference))
        if measured:
            parts.append(_at_equal_memory(problem, reference))
    return "\n\n".join(parts)


def _at_equal_time(methods: Mapping[str, Any], reference: str) -> str:
    seconds = methods[reference]["seconds"]
    losses = {name: of["loss_at_reference_seconds"][0] for name, of in methods.items()}
    listed = [
        f"{name} {losses[name]:.3f}{'*' if methods[name]['seconds'] < seconds else ''}"
        for name in sorted(losses, key=lambda name: losses[name])
    ]
    return (
        f"At equal time, the {seconds:.2g} s of {reference}, by dev loss (* had spent its forwards by then): "
        + ", ".join(listed)
        + "."
    )


def _at_equal_memory(problem: Mapping[str, Any], reference: str) -> str:
    methods = problem["methods"]
    limit = MEMORY_MARGIN * _total(methods[reference])
    fit = [name for name in problem["ranking"] if methods[name]["extra_bytes"] is not None]
    inside = [name for name in fit if _total(methods[name]) <= limit]
    outside = [f"{name} ({_total(methods[name]) / MIB:.0f} MiB)" for name in fit if name not in inside]
    return (
        f"At equal memory, at most {limit / MIB:.0f} MiB ({MEMORY_MARGIN} x {reference}), in this order: "
        f"{', '.join(inside)}. Too large: {', '.join(outside) or 'none'}."
    )


def _total(of: Mapping[str, Any]) -> float:
    return float(of["model_bytes"] + of["extra_bytes"])


def _score(scores: Mapping[str, Any]) -> tuple[str, str]:
    loss, half = scores["loss"]
    return f"{loss:.3f}{'' if half is None else f' +- {half:.3f}'}", f"{scores['accuracy'][0]:.3f}"


def _lr(of: Mapping[str, Any]) -> str:
    if of["lr"] is None:
        return "own"
    return f"({of['lr']:.2g})" if of["lr_at_edge"] else f"{of['lr']:.2g}"


def _against(of: Mapping[str, Any]) -> str:
    compared = of.get("against_reference")
    if compared is None:
        return "-"
    p = "" if compared["p_holm"] is None else f", p {compared['p_holm']:.2g}"
    return f"{compared['difference']:+.3f}: {compared['verdict']}{p}"


def _shown(ranking: Sequence[str], reference: str) -> list[str]:
    """The best methods, and in any case the reference."""
    shown = list(ranking[:DRAWN])
    return shown if reference in shown or reference not in ranking else [*shown[:-1], reference]


def _environment(where: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in where.items() if value is not None)


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()
