"""What one example may add to a sum: a vector of integers, no longer than the clip threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence

CLIPPED = 2**20
"""The clip threshold in grid steps: the L2 sensitivity of a sum of clipped vectors, under add/remove adjacency."""


def clip_to_grid(slopes: Sequence[float], clip_threshold: float) -> list[int]:
    """Clip the vector of one example's slopes and put it on a grid of ``clip_threshold / 2**20``.

    The vector is shortened as a whole, to an L2 norm of at most ``clip_threshold``, and each coordinate is rounded
    toward zero. So the sum of the squares is at most ``2**40``, as integers: no rounding error can make it more.

    Args:
        slopes: The example's directional derivatives, one for each direction. If one of them is NaN or infinite, the
            example adds nothing.
        clip_threshold: Largest norm that counts, > 0, in the units of the slopes.

    Returns:
        As many integers, in grid steps.
    """
    largest = max(map(abs, slopes), default=0.0)
    if largest == 0.0 or not all(map(math.isfinite, slopes)):
        return [0] * len(slopes)
    shape = [slope / largest for slope in slopes]  # of which no square overflows
    length = math.hypot(*shape)
    longest = min(largest * length, clip_threshold)
    steps = [math.trunc(x / length * (longest / clip_threshold) * CLIPPED) for x in shape]
    # Float arithmetic may have been a unit in the last place too generous.
    while sum(step * step for step in steps) > CLIPPED * CLIPPED:
        at = max(range(len(steps)), key=lambda k: abs(steps[k]))
        steps[at] -= 1 if steps[at] > 0 else -1
    return steps
