"""The shortest time that a step can take on a machine, from what it must compute and move (the roofline model).

Williams, Waterman and Patterson 2009, doi 10.1145/1498765.1498785.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["GRADIENT_FORWARDS", "Bound", "Ceilings", "Work", "bound", "step_work"]

GRADIENT_FORWARDS = 3  # a backward pass is twice what it goes back through (docs/benchmark.md)


@dataclass(frozen=True)
class Work:
    """What must at least be done.

    Attributes:
        flops: Multiplications and additions of the products.
        bytes: Read from and written to memory.
    """

    flops: int
    bytes: int


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do at most.

    Attributes:
        flops_per_second: Of a large matrix product.
        bytes_per_second: Of a large copy, what is read and what is written both counted.
    """

    flops_per_second: float
    bytes_per_second: float

    def or_higher(self, other: Ceilings) -> Ceilings:
        """Return the higher of each: what slows a machine for a while only ever lowers them."""
        return Ceilings(
            max(self.flops_per_second, other.flops_per_second), max(self.bytes_per_second, other.bytes_per_second)
        )


@dataclass(frozen=True)
class Bound:
    """How close something comes to the shortest time possible.

    Attributes:
        shortest_seconds: The shortest time possible.
        bound_by: Which ceiling makes it so.
        times_shortest: The time that was measured, over it.
        flops_per_byte: Of the work; what lies below the ceilings' own is bound by memory.
        flops_per_second: That were reached.
    """

    shortest_seconds: float
    bound_by: Literal["arithmetic", "memory"]
    times_shortest: float
    flops_per_byte: float
    flops_per_second: float


def step_work(forward: Work, *, forwards: int | None, weight_reads: int, written: int) -> Work:
    """Return what a step must at least do.

    Args:
        forward: Of one plain forward; its bytes are those of the weights that it reads.
        forwards: How many forwards a step cannot do without; None for training by gradients.
        weight_reads: How often weights are read.
        written: Bytes that a step writes once.
    """
    count = GRADIENT_FORWARDS if forwards is None else forwards
    return Work(count * forward.flops, weight_reads * forward.bytes + written)


def bound(work: Work, ceilings: Ceilings, seconds: float) -> Bound:
    """Return the shortest time of some work, and how close a measured time comes to it."""
    arithmetic = work.flops / ceilings.flops_per_second
    memory = work.bytes / ceilings.bytes_per_second
    shortest = max(arithmetic, memory)
    return Bound(
        shortest_seconds=shortest,
        bound_by="arithmetic" if arithmetic >= memory else "memory",
        times_shortest=seconds / shortest,
        flops_per_byte=work.flops / work.bytes,
        flops_per_second=work.flops / seconds,
    )
