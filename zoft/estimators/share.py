"""Which of a step's points one process evaluates, where several share a batch (query-parallel)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zoft.estimators.protocol import Point


@dataclass(frozen=True)
class Share:
    """One of ``count`` shares of a step's points.

    Estimates are linear in the losses. So a process that takes the losses of the points that it does not
    evaluate as zero, and its own times ``count``, has an estimate whose mean over all shares is the whole
    estimate.

    Attributes:
        index: Number of this share, ``0 <= index < count``.
        count: Number of shares.
        part: Number of the part of the data that the batch is from, ``0 <= part < parts``.
        parts: Parts of the data, each evaluated by processes of its own.
    """

    index: int
    count: int
    part: int = 0
    parts: int = 1

    def of(self, points: Sequence[Point]) -> list[bool]:
        """Return, for each point, whether it belongs to this share.

        Points along the same directions (both signs of a query) stay together: their losses are then combined
        before anything is rounded, as in a single process.
        """
        groups: dict[frozenset[tuple[int, int]], int] = {}
        numbers = [groups.setdefault(_directions(point), len(groups)) for point in points]
        return [number % self.count == self.index for number in numbers]


WHOLE = Share(0, 1)


def num_shares(points: Sequence[Point]) -> int:
    """Return how many shares the points can be split into."""
    return len({_directions(point) for point in points})


def _directions(point: Point) -> frozenset[tuple[int, int]]:
    return frozenset((term.step, term.query) for term in point.terms)
