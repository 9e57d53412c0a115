"""The mechanism: clip each example's vector, sum exactly, add noise once, divide by the expected batch size.

DP-ZO (Tang et al. 2024, arXiv 2401.04343) and DPZero (Zhang et al., ICML 2024, arXiv 2310.09639) for one direction;
for several, the vector of an example's slopes is clipped as a whole, so that the cost in privacy does not depend on how
many there are (DP-AggZO, USENIX Security 2025).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

from zoft.privacy.clipping import CLIPPED, clip_to_grid
from zoft.privacy.noise import noised


class PrivateSum:
    """The sum of a batch's clipped vectors, over its micro-batches. One example changes it by at most ``2**20`` in L2.

    Attributes:
        clip_threshold: Largest norm of an example's vector that counts.
        total: The sum so far, in grid steps: exact, secret, and not stored anywhere.
    """

    def __init__(self, num_scalars: int, clip_threshold: float) -> None:
        self.clip_threshold = clip_threshold
        self.total = [0] * num_scalars

    def add(self, slopes: Sequence[float]) -> None:
        """Add one example's slopes, clipped."""
        self.total = list(map(operator.add, self.total, clip_to_grid(slopes, self.clip_threshold)))


def release(
    total: Sequence[int],
    *,
    mechanism: str,
    noise_multiplier: float,
    clip_threshold: float,
    expected_batch_size: float,
) -> list[float]:
    """Make a batch's sum public, once.

    Args:
        total: The exact sum over all examples, micro-batches and processes, in grid steps; zeros for an empty batch,
            which is released like any other.
        mechanism: ``"gaussian"`` or ``"laplace"``.
        noise_multiplier: Scale of the noise over the clip threshold.
        clip_threshold: Largest norm of an example's vector that counts.
        expected_batch_size: Sampling rate times number of examples: a constant, where the actual size is private.

    Returns:
        The noised mean slopes.
    """
    unit = clip_threshold / CLIPPED / expected_batch_size
    return [step * unit for step in noised(total, mechanism, noise_multiplier)]
