"""Curves of thousands of steps, thinned to what can be seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

POINTS = 240
"""Most points of a drawn curve; a figure is some 500 pixels wide."""


def windows(
    steps: np.ndarray, values: np.ndarray, summarise: Callable[[np.ndarray], float], count: int = POINTS
) -> list[tuple[float, float]]:
    """Summarise a curve over at most ``count`` windows of equally many values.

    Args:
        steps: Shape [n], ascending.
        values: Shape [n].
        summarise: Makes one number of the values in a window.
        count: Most windows.

    Returns:
        For each window the mean of its steps, and its summary.
    """
    parts = min(count, len(steps))
    if not parts:
        return []
    cut = [np.array_split(array, parts) for array in (steps, values)]
    return [(float(at.mean()), summarise(part)) for at, part in zip(*cut, strict=True)]


def thinned(points: Sequence[tuple[float, float]], count: int = POINTS) -> list[tuple[float, float]]:
    """Return at most ``count`` of a curve's points, evenly spaced, the first and the last among them."""
    if len(points) <= count:
        return list(points)
    return [points[at] for at in np.linspace(0, len(points) - 1, count).round().astype(int)]


def mean(values: np.ndarray) -> float:
    """Return the mean."""
    return float(values.mean())


def rms(values: np.ndarray) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.square(values).mean()))
