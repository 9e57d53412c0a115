"""Choosing zo_eps: losses at perturbations of seven sizes say where rounding ends and where bending begins.

Along a direction z, ``L(theta + e z) - L(theta - e z) = 2 e p + O(e^3)`` and the second difference is ``e^2 c +
O(e^4)``. Where e is small both drown in the rounding of the loss (and, in 16 bits, of the weights); where it is large
the higher orders show. In between, p and c do not depend on e.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from zoft.estimators import Point
from zoft.step_size import sides

RUNGS = tuple(10.0**power for power in range(-6, 1))
DIRECTIONS = 2
NUM_POINTS = 1 + 2 * DIRECTIONS * len(RUNGS)
NUM_SCALARS = 2 * DIRECTIONS * len(RUNGS)

# A second difference stands clear of the noise if it is so many standard deviations of it.
_CLEAR = 5.0
# A rung is straight if its slopes are those of the rung below up to this part.
_STRAIGHT = 0.3


class Choice(NamedTuple):
    """What the ladder says.

    Attributes:
        zo_eps: The perturbation scale to use.
        noise: Standard deviation of the loss's rounding, in the loss's units.
        farthest: Up to which scale slopes are those of smaller ones; :data:`zoft.step_size.sides.UNREAL` where that may
            be beyond the largest rung.
    """

    zo_eps: float
    noise: float
    farthest: float


def points(step: int, first_query: int) -> list[Point]:
    """Return the points to evaluate; see :func:`zoft.step_size.sides.points`."""
    return sides.points(step, first_query, DIRECTIONS, RUNGS)


def choose(first_differences: Sequence[float], second_differences: Sequence[float], default: float) -> Choice:
    """Choose zo_eps from the (means over micro-batches of the) differences of the losses at :func:`points`.

    It is the geometric mean of the smallest rung that stands clear of the noise, and of the largest one at which the
    slopes are still, within 30%, those of the rung below, and the second difference is not above the first, half of
    which a one-sided estimate has as its error; of the former alone where noise reaches beyond that. Rungs are left out
    from the lowest on at which a loss was not finite.

    Returns:
        The choice, with ``default``, or the largest rung that is left, as zo_eps where none stands clear. The noise is
        that of the second differences at the smallest rung, or, where these are zero, half of the smallest difference
        seen: an upper bound.
    """
    count = len(RUNGS)
    first, second = (
        [values[i * count : (i + 1) * count] for i in range(DIRECTIONS)]
        for values in (first_differences, second_differences)
    )
    rungs = range(next((j for j in range(count) if not all(sides.is_real(row[j]) for row in second)), count))
    slopes = [[row[j] / (2.0 * RUNGS[j]) for row in first] for j in rungs]
    bends = [_norm([row[j] for row in second]) / (_norm([row[j] for row in first]) or math.inf) for j in rungs]
    lowest = _norm([row[0] for row in second]) / math.sqrt(6.0 * DIRECTIONS)
    noise = lowest or min((abs(v) for v in (*first_differences, *second_differences) if v), default=0.0) / 2.0

    def clear(j: int) -> bool:
        return _norm([row[j] for row in second]) > _CLEAR * noise * math.sqrt(6.0 * DIRECTIONS)

    # From the top: noise may look like anything, once.
    quiet = list(itertools.takewhile(clear, reversed(rungs)))
    if not quiet:
        return Choice(min(default, RUNGS[rungs[-1]]) if 0 < len(rungs) < count else default, noise, sides.UNREAL)
    agreeing = [j for j in quiet[:-1] if _agree(slopes[j - 1], slopes[j])]
    straight = [j for j in agreeing if bends[j] <= 1.0]
    lowest_clear = RUNGS[quiet[-1]]
    highest_straight, farthest = (RUNGS[found[0]] if found else lowest_clear for found in (straight, agreeing))
    # They stop being the same somewhere between that rung and the next.
    beyond = sides.UNREAL if farthest == RUNGS[-1] else farthest * math.sqrt(10.0)
    return Choice(math.sqrt(lowest_clear * highest_straight), noise, beyond)


def _agree(lower: Sequence[float], upper: Sequence[float]) -> bool:
    return _norm([a - b for a, b in zip(lower, upper, strict=True)]) <= _STRAIGHT * _norm(lower)


def _norm(values: Sequence[float]) -> float:
    return math.sqrt(math.fsum(v * v for v in values))
