"""What the machine can do, and the plot of what was reached of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

GIGA = 1e9


def ceilings_line(ceilings: Mapping[str, float]) -> str:
    """Return what the machine can do, in one line."""
    arithmetic, memory = ceilings["flops_per_second"], ceilings["bytes_per_second"]
    return (
        f"at most {arithmetic / GIGA:.1f} GFLOP/s (a large product), {memory / GIGA:.1f} GB/s (a large copy): below "
        f"{arithmetic / memory:.1f} FLOPs a byte it is memory that binds"
    )


def plot(results: Sequence[Mapping[str, Any]], ceilings: Mapping[str, float], title: str, file: Path) -> None:
    """Draw the roofline, a point for each contender below it, and write the PNG file."""
    from matplotlib.figure import Figure

    arithmetic, memory = ceilings["flops_per_second"], ceilings["bytes_per_second"]
    ridge = arithmetic / memory
    roofs = [one["roofline"] for one in results]
    places = [roof["flops_per_byte"] for roof in roofs]
    low, high = min(ridge, *places) / 4, max(ridge, *places) * 4
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.loglog(
        [low, ridge, high], [low * memory / GIGA, arithmetic / GIGA, arithmetic / GIGA], color="black", label="at most"
    )
    for at, (one, roof) in enumerate(zip(results, roofs, strict=True)):
        axes.loglog(
            roof["flops_per_byte"],
            roof["flops_per_second"] / GIGA,
            linestyle="none",
            marker=_MARKERS[at % len(_MARKERS)],
            markersize=8,
            alpha=0.8,
            label=f"{one['name']}: {roof['times_shortest']:.2f} x the shortest",
        )
    axes.set(xlabel="FLOPs that a step needs, for each byte that it must move", ylabel="GFLOP/s of these")
    axes.grid(which="both", alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set_title(title, fontsize="small")
    figure.savefig(file, dpi=150)


_MARKERS = "osD^vP*X<>"
