"""Numbers of single examples, each at a place of its own: zero for an example is not zero for want of one.

What micro-batches and processes say of their places is summed, so a place that none of them took holds 0. An example's
own zero is therefore written as a number too small to matter.
"""

from __future__ import annotations

from collections.abc import Iterable

_ZERO = 1e-30  # times the weights of micro-batches still far from what float32 takes for 0


def at_place(number: float) -> float:
    """Return what an example's number is written as."""
    return number or _ZERO


def of_examples(written: Iterable[float]) -> list[float]:
    """Return the numbers of the examples there are, of all places, as they were before :func:`at_place`."""
    return [number if abs(number) > 2.0 * _ZERO else 0.0 for number in written if number != 0.0]
