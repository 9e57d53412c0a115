"""The trained weights of several points: factors where directions are of low rank, copies that stay for the length of
a forward where they are small, and else a matrix, or a block of its rows, at a time.

Shapes: P points; a matrix of ``rows`` by ``columns``; directions of rank k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from zoft.directions import Directions
from zoft.errors import ConfigError
from zoft.noise import Span, Term, negated
from zoft.parameters import Trainable
from zoft.placement.ring import Kind, Ring, ring_numel


class Factors(NamedTuple):
    """What the points add to a matrix: ``left @ right^T``.

    Attributes:
        left: ``[P, rows, k]``.
        right: ``[P, columns, k]``.
    """

    left: torch.Tensor
    right: torch.Tensor


class Copies:
    """How much memory the points' own weights may take, and which weights turned out to need copies.

    Attributes:
        keeps_matrices: Whether copies of all that is trained are few enough to stay for the length of a forward.
        needed: Weights of which they do, by number.
    """

    def __init__(
        self,
        trainables: Sequence[Trainable],
        *,
        limit_bytes: int,
        scratch_bytes: int,
        block_bytes: Callable[[torch.device], int],
    ) -> None:
        """Begin with none.

        Args:
            trainables: All that is trained.
            limit_bytes: For copies that stay.
            scratch_bytes: For those that do not.
            block_bytes: For blocks of rows on a device, at all points together.
        """
        self._limit_bytes, self._scratch_bytes, self._block_bytes = limit_bytes, scratch_bytes, block_bytes
        self.keeps_matrices = 2 * _bytes(trainables) <= limit_bytes
        self.needed: dict[int, Trainable] = {}
        self._rings: dict[Kind, Ring] = {}

    def points(self) -> int:
        """Return for how many points there is room, >= 2."""
        return self._limit_bytes // max(1, _bytes(self.needed.values()))

    def stays(self, trainable: Trainable) -> bool:
        """Whether copies of it are to be expected to stay, where no directions are of low rank."""
        return self.keeps_matrices or trainable.parameter.ndim != 2

    def need(self, trainable: Trainable) -> None:
        """Note that a weight is copied.

        Raises:
            ConfigError: If there is no room for those of two points.
        """
        self.needed[trainable.number] = trainable
        if self.points() < 2:
            names = [t.name for t in self.needed.values()]
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ConfigError(
                f"placement='batched' takes a copy of {names[-1]}{others} for each point, "
                f"{_bytes(self.needed.values()) / 2**20:.1f} MiB, and has {self._limit_bytes / 2**20:.1f} MiB for all "
                "of them: a module uses it other than by linear() or embedding(). Exclude it, raise scratch_mib, or "
                "use placement='stream'."
            )

    def expected_points(self, trainables: Iterable[Trainable]) -> int:
        """Return for how many points there will be room."""
        return self._limit_bytes // max(1, _bytes(filter(self.stays, trainables)))

    def extra_bytes(self, trainables: Sequence[Trainable], points: int) -> int:
        """Return how much memory copies and blocks take for so many points; low-rank factors are not counted."""
        blocks: dict[Kind, int] = {}
        for weight in (t.parameter for t in trainables if not self.stays(t)):
            kind, rows = Kind(weight.device, weight.dtype), self.block_rows(weight, points)
            numel = points * min(rows, weight.shape[0]) * weight[0].numel()
            blocks[kind] = max(blocks.get(kind, 0), ring_numel(numel, kind, self._scratch_bytes))
        return points * _bytes(filter(self.stays, trainables)) + sum(
            numel * kind.dtype.itemsize for kind, numel in blocks.items()
        )

    def block_rows(self, matrix: torch.Tensor, points: int) -> int:
        """Return how many rows of a matrix are made at once for so many points."""
        return max(1, self._block_bytes(matrix.device) // (points * matrix[0].numel() * matrix.element_size()))

    def scratch(self, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        """Return a place for a block, which is the caller's until it asks for the next one."""
        numel, kind = math.prod(shape), Kind(like.device, like.dtype)
        ring = self._rings.get(kind)
        if ring is None or ring.buffer.numel() < numel:
            size = ring_numel(numel, kind, self._scratch_bytes)
            ring = self._rings[kind] = Ring(torch.empty(size, dtype=kind.dtype, device=kind.device))
        return ring.take(numel).view(shape)


def _bytes(trainables: Iterable[Trainable]) -> int:
    return sum(t.parameter.numel() * t.parameter.element_size() for t in trainables)


class PointWeights:
    """The weights of the points of one forward."""

    def __init__(self, directions: Directions, points: Sequence[Sequence[Term]], copies: Copies) -> None:
        self._directions, self._points, self._copies = directions, points, copies
        self._both, self._alone = _mirrored(points)
        self._whole: dict[int, torch.Tensor] = {}
        self._factors: dict[int, Factors | None] = {}
        self._make(list(copies.needed.values()))

    def whole(self, trainable: Trainable) -> torch.Tensor:
        """Return a parameter at each point, ``[P, *shape]``.

        Raises:
            ConfigError: If such copies take too much memory.
        """
        if trainable.number not in self._whole:
            self._copies.need(trainable)
            self._make([trainable])
        return self._whole[trainable.number]

    def factors(self, trainable: Trainable) -> Factors | None:
        """Return what the points add to a matrix, in its dtype and place; None if it is better copied."""
        if trainable.number not in self._factors:
            self._factors[trainable.number] = self._factored(trainable)
        return self._factors[trainable.number]

    def in_blocks(self, trainable: Trainable) -> Iterator[torch.Tensor]:
        """Yield a matrix's rows at each point, block by block, ``[P, rows of the block, columns]``.

        A block is there until the next one is asked for.
        """
        if self._copies.keeps_matrices:
            yield self.whole(trainable)
            return
        base = trainable.parameter.data.contiguous()
        rows, columns = base.shape
        step = self._copies.block_rows(base, len(self._points))
        for low in range(0, rows, step):
            part = base[low : low + step]
            block = self._copies.scratch((len(self._points), *part.shape), base)
            self._write([(block, part, trainable.number, low * columns)])
            yield block

    def rows(self, trainable: Trainable, rows: torch.Tensor) -> torch.Tensor:
        """Return rows of a matrix at each point.

        Args:
            trainable: The matrix.
            rows: ``[P, n]``, integers: those of each point.

        Returns:
            ``[P, n, columns]``.
        """
        base = trainable.parameter.data.contiguous()
        out = base.new_empty(*rows.shape, base.shape[1])
        for point, of_point, terms in zip(out, rows, self._points, strict=True):
            self._directions.combine_rows(point, base, of_point, trainable.number, terms)
        return out

    def _factored(self, trainable: Trainable) -> Factors | None:
        weight = trainable.parameter
        pairs = [self._directions.factored(trainable.number, terms) for terms in self._points]
        lefts = [pair[0] for pair in pairs if pair is not None]
        rights = [pair[1] for pair in pairs if pair is not None]
        rank = max((left.shape[1] for left in lefts), default=0)
        if len(lefts) < len(pairs) or rank * sum(weight.shape) >= weight.numel():
            return None
        return Factors(_stacked(lefts, weight), _stacked(rights, weight))

    def _make(self, trainables: Sequence[Trainable]) -> None:
        for trainable in trainables:
            weight = trainable.parameter
            self._whole[trainable.number] = torch.empty(
                (len(self._points), *weight.shape), dtype=weight.dtype, device=weight.device
            )
        self._write([(self._whole[t.number], t.parameter.data.contiguous(), t.number, 0) for t in trainables])

    def _write(self, parts: Sequence[tuple[torch.Tensor, torch.Tensor, int, int]]) -> None:
        """Write parts of weights at each point: ``[P, *shape]``, the part as it is, whose it is, its first element."""
        for place, mirror in self._both:
            spans = [Span(each[place], base, number, start) for each, base, number, start in parts]
            self._directions.combine_both(spans, [each[mirror] for each, *_ in parts], self._points[place])
        for place in self._alone:
            spans = [Span(each[place], base, number, start) for each, base, number, start in parts]
            self._directions.combine(spans, self._points[place])


def _mirrored(points: Sequence[Sequence[Term]]) -> tuple[list[tuple[int, int]], list[int]]:
    """Return pairs of points on both sides of theta, and the points that are in none."""
    both: list[tuple[int, int]] = []
    alone: dict[tuple[Term, ...], list[int]] = {}  # a point may be there twice
    for place, terms in enumerate(points):
        opposite = tuple(negated(terms))
        if terms and alone.get(opposite):
            both.append((alone[opposite].pop(), place))
        else:
            alone.setdefault(tuple(terms), []).append(place)
    return both, [place for places in alone.values() for place in places]


def _stacked(factors: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """Stack ``[n, k]`` matrices of different k, with zeros behind the shorter ones, as ``[P, n, k]``."""
    padded = pad_sequence([factor.T for factor in factors], batch_first=True)  # [P, k, n]
    return padded.transpose(1, 2).to(like.device, like.dtype).contiguous()
