"""The factors of low-rank directions: noise, or bases that last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch

from zoft import noise
from zoft.directions.dense import DenseDirections
from zoft.noise import Span, Term

_CPU = torch.device("cpu")


class Place(NamedTuple):
    """Some rows of a matrix.

    Attributes:
        parameter: The matrix.
        low: Its first row.
        high: The row behind its last.
        shape: Of the matrix.
    """

    parameter: int
    low: int
    high: int
    shape: torch.Size


class Factors(Protocol):
    """Where the two factors of ``z = left @ right^T`` come from: the same bits on every device."""

    def lefts(self, term: Term, places: Sequence[Place], device: torch.device) -> list[torch.Tensor]:
        """Return :meth:`left` of many matrices."""
        return [self.left(term, *place, device) for place in places]

    def rights(self, term: Term, places: Sequence[Place], device: torch.device) -> list[torch.Tensor]:
        """Return :meth:`right` of many matrices."""
        return [self.right(term, place.parameter, place.shape, device) for place in places]

    def left(
        self, term: Term, parameter: int, low: int, high: int, shape: torch.Size, device: torch.device = _CPU
    ) -> torch.Tensor:
        """Return rows ``low`` to ``high`` of the left factor, ``[high - low, rank]``, float32."""

    def right(self, term: Term, parameter: int, shape: torch.Size, device: torch.device = _CPU) -> torch.Tensor:
        """Return the right factor, ``[columns, rank]``, float32."""

    def state_size(self, shape: torch.Size) -> int:
        """Return how many float32 numbers are kept for a matrix of this shape."""


class Address(NamedTuple):
    """Where the noise of a factor begins, and how many rows it has."""

    parameter: int
    start: int
    rows: int


def factors(
    directions: DenseDirections, term: Term, addresses: Sequence[Address], rank: int, device: torch.device = _CPU
) -> list[torch.Tensor]:
    """Return noise as float32 matrices ``[rows, rank]``, all made at once."""
    whole = torch.zeros(sum(address.rows for address in addresses), rank, device=device)
    parts = list(torch.split(whole, [address.rows for address in addresses]))
    spans = [Span(z, z, address.parameter, address.start) for z, address in zip(parts, addresses, strict=True)]
    directions.combine(spans, [Term(term.step, term.query, 1.0)])
    return parts


def factor(directions: DenseDirections, term: Term, parameter: int, start: int, rows: int, rank: int) -> torch.Tensor:
    """Return noise as a ``[rows, rank]`` float32 matrix that begins at element ``start`` of an address, on the CPU."""
    return factors(directions, term, [Address(parameter, start, rows)], rank)[0]


def _began(directions: DenseDirections, step: int, period: int) -> int:
    """Return the first step of this step's period, which lasts for whole windows of steps that share directions."""
    whole = math.ceil(period / directions.window) * directions.window
    return step // whole * whole


@dataclass(frozen=True)
class GivenFactors(Factors):
    """The factors of one matrix, at hand.

    Attributes:
        whole_left: ``[rows, rank]``, float32, on the CPU.
        whole_right: ``[columns, rank]``, likewise.
    """

    whole_left: torch.Tensor
    whole_right: torch.Tensor

    def left(
        self, term: Term, parameter: int, low: int, high: int, shape: torch.Size, device: torch.device = _CPU
    ) -> torch.Tensor:
        """See :class:`Factors`."""
        return self.whole_left[low:high].to(device)

    def right(self, term: Term, parameter: int, shape: torch.Size, device: torch.device = _CPU) -> torch.Tensor:
        """See :class:`Factors`."""
        return self.whole_right.to(device)

    def state_size(self, shape: torch.Size) -> int:
        """Nothing: they are somebody else's."""
        return 0


@dataclass(frozen=True)
class NoiseFactors(Factors):
    """Both factors are noise: ``z = U V^T / sqrt(rank)``, whose elements have mean 0 and variance 1.

    Attributes:
        dense: Where their values come from.
        rank: Columns of each.
        period: Steps, and all queries of each, that share V, in whole windows; None: every query has its own.
    """

    dense: DenseDirections
    rank: int
    period: int | None

    def lefts(self, term: Term, places: Sequence[Place], device: torch.device) -> list[torch.Tensor]:
        """See :class:`Factors`."""
        addresses = [Address(place.parameter, place.low * self.rank, place.high - place.low) for place in places]
        made = factors(self.dense, term, addresses, self.rank, device)
        # By a tensor: by a number, torch would multiply by its inverse on a GPU.
        root = torch.full((), math.sqrt(self.rank), device=device)
        return [left.div_(root) for left in made]

    def rights(self, term: Term, places: Sequence[Place], device: torch.device) -> list[torch.Tensor]:
        """See :class:`Factors`."""
        if self.period is not None:
            term = Term(_began(self.dense, term.step, self.period), 0, 1.0)
        # Behind the elements of U, which may be of the same step and query.
        addresses = [Address(place.parameter, place.shape[0] * self.rank, place.shape[1]) for place in places]
        return factors(self.dense, term, addresses, self.rank, device)

    def left(
        self, term: Term, parameter: int, low: int, high: int, shape: torch.Size, device: torch.device = _CPU
    ) -> torch.Tensor:
        """See :class:`Factors`."""
        return self.lefts(term, [Place(parameter, low, high, shape)], device)[0]

    def right(self, term: Term, parameter: int, shape: torch.Size, device: torch.device = _CPU) -> torch.Tensor:
        """See :class:`Factors`."""
        return self.rights(term, [Place(parameter, 0, shape[0], shape)], device)[0]

    def state_size(self, shape: torch.Size) -> int:
        """Nothing."""
        return 0


class OrthonormalFactors(Factors):
    """``z = s U Z V^T``: U and V have orthonormal columns and last for some steps, Z is noise ``[rank, rank]``.

    ``s = sqrt(rows * columns) / rank`` makes the elements' mean square 1, as that of dense noise is.
    U and V of the current period are kept: ``(rows + columns) * rank`` numbers for each matrix. They are made of
    Gaussian noise whatever Z is: columns of signs may be dependent, and those of a small matrix often are.
    """

    def __init__(self, dense: DenseDirections, rank: int, period: int) -> None:
        self._dense, self._rank, self._period = dense, rank, period
        self._gaussian = replace(dense, distribution="gaussian")
        self._kept: dict[int, tuple[int, torch.Tensor, torch.Tensor]] = {}

    def began(self, step: int) -> int:
        """Return the first step of this step's period."""
        return _began(self._dense, step, self._period)

    def bases(self, step: int, parameter: int, shape: torch.Size) -> tuple[torch.Tensor, torch.Tensor]:
        """Return U ``[rows, rank]`` and V ``[columns, rank]``, float32, on the CPU."""
        rows, columns = shape
        rank = min(self._rank, rows, columns)
        began = self.began(step)
        kept = self._kept.get(parameter)
        if kept is None or kept[0] != began:
            # Behind the elements of Z, which may be of the same step and query.
            address, start = Term(began, 0, 1.0), self._rank * self._rank
            left = factor(self._gaussian, address, parameter, start, rows, rank)
            right = factor(self._gaussian, address, parameter, start + rows * rank, columns, rank)
            kept = self._kept[parameter] = began, noise.orthonormal(left), noise.orthonormal(right)
        return kept[1], kept[2]

    def inner(self, term: Term, parameter: int, shape: torch.Size) -> torch.Tensor:
        """Return ``s Z``, ``[rank, rank]``, float32, on the CPU."""
        rank = min(self._rank, *shape)
        return factor(self._dense, term, parameter, 0, rank, rank) * self.scale(shape)

    def scale(self, shape: torch.Size) -> float:
        """Return s."""
        rows, columns = shape
        return math.sqrt(rows * columns) / min(self._rank, rows, columns)

    def left(
        self, term: Term, parameter: int, low: int, high: int, shape: torch.Size, device: torch.device = _CPU
    ) -> torch.Tensor:
        """See :class:`Factors`."""
        basis, _ = self.bases(term.step, parameter, shape)
        return noise.product(basis[low:high], self.inner(term, parameter, shape)).to(device)

    def right(self, term: Term, parameter: int, shape: torch.Size, device: torch.device = _CPU) -> torch.Tensor:
        """See :class:`Factors`."""
        return self.bases(term.step, parameter, shape)[1].to(device)

    def state_size(self, shape: torch.Size) -> int:
        """See :class:`Factors`."""
        rows, columns = shape
        return (rows + columns) * min(self._rank, rows, columns)
