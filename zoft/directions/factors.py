"""The factors of low-rank directions: noise, or bases that last."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from zoft import noise
from zoft.directions.dense import DenseDirections
from zoft.noise import Span, Term

_CPU = torch.device("cpu")


class Factors(Protocol):
    """Where the two factors of ``z = left @ right^T`` come from: the same bits on every device."""

    def left(
        self, term: Term, parameter: int, low: int, high: int, shape: torch.Size, device: torch.device = _CPU
    ) -> torch.Tensor:
        """Return rows ``low`` to ``high`` of the left factor, ``[high - low, rank]``, float32."""

    def right(self, term: Term, parameter: int, shape: torch.Size, device: torch.device = _CPU) -> torch.Tensor:
        """Return the right factor, ``[columns, rank]``, float32."""

    def state_size(self, shape: torch.Size) -> int:
        """Return how many float32 numbers are kept for a matrix of this shape."""


def factor(
    directions: DenseDirections,
    term: Term,
    parameter: int,
    start: int,
    rows: int,
    rank: int,
    device: torch.device = _CPU,
) -> torch.Tensor:
    """Return noise as a ``[rows, rank]`` float32 matrix that begins at element ``start`` of an address."""
    z = torch.zeros(rows, rank, device=device)
    directions.combine([Span(z, z, parameter, start)], [Term(term.step, term.query, 1.0)])
    return z


@dataclass(frozen=True)
class GivenFactors:
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
class NoiseFactors:
    """Both factors are noise: ``z = U V^T / sqrt(rank)``, whose elements have mean 0 and variance 1.

    Attributes:
        dense: Where their values come from.
        rank: Columns of each.
        period: Steps, and all queries of each, that share V; None: every query has its own.
    """

    dense: DenseDirections
    rank: int
    period: int | None

    def left(
        self, term: Term, parameter: int, low: int, high: int, shape: torch.Size, device: torch.device = _CPU
    ) -> torch.Tensor:
        """See :class:`Factors`."""
        rank = self.rank
        left = factor(self.dense, term, parameter, low * rank, high - low, rank, device)
        # By a tensor: by a number, torch would multiply by its inverse on a GPU.
        return left / torch.full((), math.sqrt(rank), device=device)

    def right(self, term: Term, parameter: int, shape: torch.Size, device: torch.device = _CPU) -> torch.Tensor:
        """See :class:`Factors`."""
        if self.period is not None:
            term = Term(term.step // self.period * self.period, 0, 1.0)
        # Behind the elements of U, which may be of the same step and query.
        return factor(self.dense, term, parameter, shape[0] * self.rank, shape[1], self.rank, device)

    def state_size(self, shape: torch.Size) -> int:
        """Nothing."""
        return 0


class OrthonormalFactors:
    """``z = s U Z V^T``: U and V have orthonormal columns and last for some steps, Z is noise ``[rank, rank]``.

    ``s = sqrt(rows * columns) / rank`` makes the elements' mean square 1, as that of dense noise is.
    U and V of the current period are kept: ``(rows + columns) * rank`` numbers for each matrix.
    """

    def __init__(self, dense: DenseDirections, rank: int, period: int) -> None:
        self._dense, self._rank, self._period = dense, rank, period
        self._kept: dict[int, tuple[int, torch.Tensor, torch.Tensor]] = {}

    def began(self, step: int) -> int:
        """Return the first step of this step's period."""
        return step // self._period * self._period

    def bases(self, step: int, parameter: int, shape: torch.Size) -> tuple[torch.Tensor, torch.Tensor]:
        """Return U ``[rows, rank]`` and V ``[columns, rank]``, float32, on the CPU."""
        rows, columns = shape
        rank = min(self._rank, rows, columns)
        began = self.began(step)
        kept = self._kept.get(parameter)
        if kept is None or kept[0] != began:
            # Behind the elements of Z, which may be of the same step and query.
            address, start = Term(began, 0, 1.0), self._rank * self._rank
            left = factor(self._dense, address, parameter, start, rows, rank)
            right = factor(self._dense, address, parameter, start + rows * rank, columns, rank)
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
