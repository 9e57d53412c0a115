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
    """Draw the ratio against parameters, and time against tokens with the fitted power: of these what grows.

    Args:
        results: As in growth.json.
        exponents: As in growth.json.
        title: Above the plot.
        file: Of PNG, to be written.
    """
    from matplotlib.figure import Figure

    draws = {"parameters": _draw_ratios, "tokens": _draw_times}
    grown = {along: len({one[along] for one in results if one["along"] == along}) for along in draws}
    drawn = [along for along in draws if grown[along] > 1] or [along for along in draws if grown[along]]
    figure = Figure(figsize=(5 * len(drawn), 4.2), layout="constrained")
    for axes, along in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
        draws[along](axes, results, exponents)
        axes.grid(which="both", alpha=0.3)
        axes.legend(fontsize="small")
    figure.suptitle(title, fontsize="medium", wrap=True)
    figure.savefig(file, dpi=150)


def _draw_ratios(axes: Any, results: Sequence[Mapping[str, Any]], exponents: Sequence[Mapping[str, Any]]) -> None:
    for colour, name in _coloured(results):
        axes.semilogx(
            *_columns(_sorted(results, name, "parameters"), "parameters", "ratio"), "o-", color=colour, label=name
        )
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(xlabel="parameters", ylabel="time of a step / that of its forwards")


def _draw_times(axes: Any, results: Sequence[Mapping[str, Any]], exponents: Sequence[Mapping[str, Any]]) -> None:
    for colour, name in _coloured(results):
        tokens, seconds = _columns(_sorted(results, name, "tokens"), "tokens", "step_seconds")
        power = next((one["step"] for one in exponents if (one["along"], one["name"]) == ("tokens", name)), None)
        label = name if power is None else f"{name}: tokens^{power:.2f}"
        axes.loglog(tokens, seconds, "o", color=colour, label=label)
        if power is not None:
            axes.loglog(tokens, _fitted(tokens, seconds, power), color=colour, alpha=0.6)
    axes.set(xlabel="tokens of the batch", ylabel="seconds a step")


def _coloured(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [(f"C{at % 10}", name) for at, name in enumerate(dict.fromkeys(one["name"] for one in results))]


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
