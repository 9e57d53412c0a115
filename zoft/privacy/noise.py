"""Noise that nobody can repeat: exact discrete distributions, sampled by OpenDP from the operating system's entropy.

Directions, masks and rounding bits come from public seeds. This noise must not, or whoever knows the seed could take
it off again; so nothing here has a seed or a state, and nothing of it is stored but the sums that it was added to.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from zoft.privacy.clipping import CLIPPED


def noised(total: Sequence[int], mechanism: str, noise_multiplier: float) -> list[int]:
    """Add fresh noise to a sum of clipped vectors.

    Args:
        total: The exact sum, in grid steps.
        mechanism: ``"gaussian"``: the discrete Gaussian (Canonne, Kamath, Steinke 2020, arXiv 2004.00010);
            ``"laplace"``: the discrete Laplace distribution, for sums of one element.
        noise_multiplier: Scale of the noise (the Gaussian's standard deviation, the Laplace distribution's scale) over
            the sum's sensitivity, > 0.

    Returns:
        As many integers, in grid steps.
    """
    released: list[int] = _measurement(mechanism, noise_multiplier * CLIPPED)(list(total))
    return released


@cache
def _measurement(mechanism: str, scale: float) -> Any:
    import opendp.prelude as dp  # takes seconds, which only private runs should wait for

    dp.enable_features("contrib")  # OpenDP's name for mechanisms whose proofs it publishes
    integers = dp.vector_domain(dp.atom_domain(T=dp.i64))
    if mechanism == "laplace":
        return dp.m.make_laplace(integers, dp.l1_distance(T=dp.i64), scale=scale)
    return dp.m.make_gaussian(integers, dp.l2_distance(T=dp.i64), scale=scale)
