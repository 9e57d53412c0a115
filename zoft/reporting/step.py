"""Table and plot of ``zoft-bench step``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoft.markdown import table

MIB = 2**20


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the table: time a step, in seconds, in plain forwards and over the shortest possible, and memory.

    Memory is also said over that of inference if this is known.
    """
    inference = next((one["peak_bytes"] for one in results if one["name"] == "forward"), None)
    rows = [
        (
            "",
            "trained",
            "step",
            "forwards it needs",
            "takes, in forwards",
            "ratio",
            "shortest possible",
            "/ shortest",
            "tokens/s",
            "peak memory",
            "J",
        )
    ]
    for one in results:
        worth = one["step_seconds"] / one["forward_seconds"]
        needs = one["forwards"]
        roof = one["roofline"]
        rows.append(
            (
                one["name"],
                f"{one['trained']:,}",
                f"{one['step_seconds']:.4g} s",
                "-" if needs is None else str(needs),
                f"{worth:.2f}",
                "-" if needs is None else f"{worth / needs:.3f}",
                f"{roof['shortest_seconds']:.3g} s, {roof['bound_by']}",
                f"{roof['times_shortest']:.2f}",
                f"{one['tokens_per_second']:.0f}",
                _memory(one["peak_bytes"], inference),
                "-" if one["joules_per_step"] is None else f"{one['joules_per_step']:.1f}",
            )
        )
    return table(rows)


def _memory(peak: int | None, inference: int | None) -> str:
    if peak is None:
        return "-"
    beside = "" if inference is None else f" = {peak / inference:.3f} x"
    return f"{peak / MIB:.0f} MiB{beside}"


def plot(results: Sequence[Mapping[str, Any]], title: str, file: Path) -> None:
    """Draw time and memory of each contender as bars, and write the PNG file."""
    from matplotlib.figure import Figure

    names = [one["name"] for one in results][::-1]
    figure = Figure(figsize=(9, 0.6 + 0.4 * len(names)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.barh(names, [one["step_seconds"] / one["forward_seconds"] for one in results][::-1], color="tab:blue")
    left.set_xlabel("time of a step, in plain forwards")
    right.barh(names, [(one["peak_bytes"] or 0) / MIB for one in results][::-1], color="tab:orange")
    right.set_xlabel("peak memory, MiB")
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle(title)
    figure.savefig(file, dpi=150)
