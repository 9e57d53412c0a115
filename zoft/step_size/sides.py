"""Losses on both sides of the weights, along directions that no estimate uses."""

from __future__ import annotations

import math
from collections.abc import Sequence

from zoft.estimators import Point
from zoft.noise import Term


def points(step: int, first_query: int, directions: int, scales: Sequence[float]) -> list[Point]:
    """Return the points to evaluate: theta itself, then both sides for each direction and scale.

    Args:
        step: The step whose directions are used.
        first_query: The first query of that step that no estimate uses.
        directions: How many are used.
        scales: Distances an element.
    """
    return [
        Point("loss_clean of a probe", ()),
        *(
            Point(f"loss at {distance:+.1e} of a probe", (Term(step, first_query + number, distance),))
            for number in range(directions)
            for scale in scales
            for distance in (scale, -scale)
        ),
    ]


def differences(losses: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the first and the second differences of the losses at :func:`points`, in their order."""
    clean, *others = losses
    pairs = list(zip(others[::2], others[1::2], strict=True))
    return [plus - minus for plus, minus in pairs], [(plus - clean) + (minus - clean) for plus, minus in pairs]


# Stands for what is not finite: unlike NaN it can be summed and multiplied by zero. One among a million is still seen.
UNREAL = 1e30


def real(loss: float) -> float:
    """Return a loss, or what stands for it."""
    return loss if math.isfinite(loss) else UNREAL


def is_real(measured: float) -> bool:
    """Whether a mean over micro-batches comes from finite losses alone."""
    return abs(measured) < 1e-6 * UNREAL
