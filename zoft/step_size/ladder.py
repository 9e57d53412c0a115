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
from zoft.noise import Term

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
    """

    zo_eps: float
    noise: float


def points(step: int, query: int) -> list[Point]:
    """Return the points to evaluate, theta itself first.

    Args:
        step: The step whose directions are used.
        query: The first query of that step that no estimate uses.
    """
    return [
        Point("loss_clean of the zo_eps ladder", ()),
        *(
            Point(f"loss at {scale:+.0e} of the zo_eps ladder", (Term(step, query + number, scale),))
            for number in range(DIRECTIONS)
            for rung in RUNGS
            for scale in (rung, -rung)
        ),
    ]


def differences(losses: Sequence[float]) -> list[float]:
    """Return, for each direction and rung, the first and the second difference of the losses at :func:`points`."""
    clean, *others = losses
    pairs = zip(others[::2], others[1::2], strict=True)
    return [value for plus, minus in pairs for value in (plus - minus, (plus - clean) + (minus - clean))]


def choose(values: Sequence[float], default: float) -> Choice:
    """Choose zo_eps from the (mean over micro-batches of) :func:`differences`.

    It is the geometric mean of the smallest rung that stands clear of the noise, and of the largest one at which the
    slopes are still, within 30%, those of the rung below, and the second difference is not above the first, half of
    which a one-sided estimate has as its error; of the former alone where noise reaches beyond that.

    Returns:
        The choice, with ``default`` as zo_eps where no rung stands clear. The noise is that of the second differences
        at the smallest rung, or, where these are zero, half of the smallest difference seen: an upper bound.
    """
    count = len(RUNGS)
    first, second = ([list(values[k::2])[i * count : (i + 1) * count] for i in range(DIRECTIONS)] for k in (0, 1))
    rungs = range(count)
    slopes = [[row[j] / (2.0 * RUNGS[j]) for row in first] for j in rungs]
    bends = [_norm([row[j] for row in second]) / (_norm([row[j] for row in first]) or math.inf) for j in rungs]
    lowest = _norm([row[0] for row in second]) / math.sqrt(6.0 * DIRECTIONS)
    noise = lowest or min((abs(v) for v in values if v), default=0.0) / 2.0

    def clear(j: int) -> bool:
        return _norm([row[j] for row in second]) > _CLEAR * noise * math.sqrt(6.0 * DIRECTIONS)

    # From the top: noise may look like anything, once.
    quiet = list(itertools.takewhile(clear, reversed(rungs)))
    if not quiet:
        return Choice(default, noise)
    straight = [j for j in quiet[:-1] if bends[j] <= 1.0 and _agree(slopes[j - 1], slopes[j])]
    ends = RUNGS[quiet[-1]], RUNGS[straight[0]] if straight else RUNGS[quiet[-1]]
    return Choice(math.sqrt(ends[0] * ends[1]), noise)


def _agree(lower: Sequence[float], upper: Sequence[float]) -> bool:
    return _norm([a - b for a, b in zip(lower, upper, strict=True)]) <= _STRAIGHT * _norm(lower)


def _norm(values: Sequence[float]) -> float:
    return math.sqrt(math.fsum(v * v for v in values))
