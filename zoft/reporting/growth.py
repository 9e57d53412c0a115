"""Tables and plots of ``zoft-bench growth``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoft.markdown import table


def markdown(results: Sequence[Mapping[str, Any]], exponents: Sequence[Mapping[str, Any]]) -> str:
    """Return a table for what grew, parameters or tokens, and below it how time grew with it."""
    parts = []
    for along in dict.fromkeys(one["along"] for one in results):
        rows: list[tuple[str, ...]] = [
            ("", "parameters", "tokens", "step", "forward", "forwards it needs", "ratio"),
        ]
        rows += [_row(one) for one in results if one["along"] == along]
        fits = [_fit(one) for one in exponents if one["along"] == along and one["step"] is not None]
        parts += [table(rows), *(["\n".join(fits)] if fits else [])]
    return "\n\n".join(parts)


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    batch = one["workload"]
    return (
        one["name"],
        f"{one['parameters']:,}",
        f"{batch['batch_size']} x {batch['length']}",
        f"{one['step_seconds']:.3f} s",
        f"{one['forward_seconds']:.3f} s",
        "-" if one["forwards"] is None else str(one["forwards"]),
        f"{one['ratio']:.3f}",
    )


def _fit(one: Mapping[str, Any]) -> str:
    return (
        f"{one['name']}: a step's time grows as {one['along']}^{one['step']:.2f}, a forward's as ^{one['forward']:.2f}"
    )


def plot(results: Sequence[Mapping[str, Any]], exponents: Sequence[Mapping[str, Any]], title: str, file: Path) -> None:
    """Draw the ratio against parameters, and time against tokens with the fitted power, and write the PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for at, name in enumerate(dict.fromkeys(one["name"] for one in results)):
        colour = f"C{at % 10}"
        grown = _sorted(results, name, "parameters")
        left.semilogx(*_columns(grown, "parameters", "ratio"), "o-", color=colour, label=name)
        grown = _sorted(results, name, "tokens")
        tokens, seconds = _columns(grown, "tokens", "step_seconds")
        power = next((one["step"] for one in exponents if (one["along"], one["name"]) == ("tokens", name)), None)
        if power is None:
            right.loglog(tokens, seconds, "o", color=colour, label=name)
            continue
        right.loglog(tokens, seconds, "o", color=colour, label=f"{name}: tokens^{power:.2f}")
        right.loglog(tokens, _fitted(tokens, seconds, power), color=colour, alpha=0.6)
    left.axhline(1, color="black", linewidth=0.8)
    left.set(xlabel="parameters", ylabel="time of a step / that of its forwards")
    right.set(xlabel="tokens of the batch", ylabel="seconds a step")
    for axes in (left, right):
        axes.grid(which="both", alpha=0.3)
        axes.legend(fontsize="small")
    figure.suptitle(title)
    figure.savefig(file, dpi=150)


def _sorted(results: Sequence[Mapping[str, Any]], name: str, along: str) -> list[Mapping[str, Any]]:
    those = [one for one in results if (one["name"], one["along"]) == (name, along)]
    return sorted(those, key=lambda one: float(one[along]))


def _columns(those: Sequence[Mapping[str, Any]], x: str, y: str) -> tuple[list[float], list[float]]:
    return [one[x] for one in those], [one[y] for one in those]


def _fitted(sizes: Sequence[float], values: Sequence[float], power: float) -> list[float]:
    """Return the fitted line: it goes through the geometric mean of the points."""
    from statistics import geometric_mean

    middle, height = geometric_mean(sizes), geometric_mean(values)
    return [height * (size / middle) ** power for size in sizes]
