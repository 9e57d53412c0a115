"""Directions that are low-rank matrices: ``z = L R^T``, made when they are needed and never stored whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from zoft import noise
from zoft.directions.dense import DenseDirections
from zoft.directions.stateless import Stateless
from zoft.noise import Rounding, Span, Term
from zoft.parameters import Trainable

# Elements made at once: small enough that each block's sum stays in a core's cache.
_BLOCK = 2**16


class Factors(Protocol):
    """Where the two factors of ``z = left @ right^T`` come from."""

    def left(self, term: Term, parameter: int, low: int, high: int, shape: torch.Size) -> torch.Tensor:
        """Return rows ``low`` to ``high`` of the left factor, ``[high - low, rank]``, float32, on the CPU."""

    def right(self, term: Term, parameter: int, shape: torch.Size) -> torch.Tensor:
        """Return the right factor, ``[columns, rank]``, float32, on the CPU."""


@dataclass(frozen=True)
class LowRankDirections(Stateless):
    """Matrices get ``z = left @ right^T``; vectors and tensors of other shapes get dense noise.

    The products are summed over the rank in one order, an element at a time, so that a direction has the same bits
    whatever part of it is made.

    Attributes:
        dense: Noise for what is not a matrix; its key also keys the rounding.
        factors: The factors of a matrix's direction.
        shapes: The shape of each parameter; see :meth:`over`.
    """

    dense: DenseDirections
    factors: Factors
    shapes: tuple[torch.Size, ...] = ()

    def over(self, trainables: Sequence[Trainable]) -> LowRankDirections:
        """The same over parameters of these shapes."""
        return replace(self, shapes=tuple(t.stored().shape for t in trainables))

    def combine(
        self,
        spans: Sequence[Span],
        terms: Sequence[Term],
        *,
        decay: float = 1.0,
        rounding: Rounding = "nearest",
        rounding_step: int = 0,
    ) -> None:
        """See :func:`zoft.noise.combine`."""
        others = [span for span in spans if len(self.shapes[span.parameter]) != 2]
        if others:
            self.dense.combine(others, terms, decay=decay, rounding=rounding, rounding_step=rounding_step)
        for span in spans:
            shape = self.shapes[span.parameter]
            if len(shape) != 2:
                continue
            out, base = span.out.view(-1), span.base.view(-1)
            rights = [self.factors.right(term, span.parameter, shape) for term in terms]
            for low, high in _row_blocks(span.start, span.start + out.numel(), shape[1]):
                first, last = low // shape[1], -(-high // shape[1])
                lefts = [self.factors.left(term, span.parameter, first, last, shape) for term in terms]
                part, offset = slice(low - span.start, high - span.start), low - first * shape[1]
                noise.add(
                    Span(out[part], base[part], span.parameter, low),
                    _sum(terms, lefts, rights, base[part]).view(-1)[offset : offset + high - low],
                    decay=decay,
                    rounding=rounding,
                    rounding_step=rounding_step,
                    key=self.dense.key,
                )

    def combine_rows(
        self, out: torch.Tensor, base: torch.Tensor, rows: torch.Tensor, parameter: int, terms: Sequence[Term]
    ) -> None:
        """See :func:`zoft.noise.combine_rows`."""
        if not rows.numel():
            return
        picked = rows.cpu().to(torch.int64)
        low, high = int(picked.min()), int(picked.max()) + 1
        shape = base.shape
        lefts = [self.factors.left(term, parameter, low, high, shape)[picked - low] for term in terms]
        rights = [self.factors.right(term, parameter, shape) for term in terms]
        total = _sum(terms, lefts, rights, base[rows])
        out.copy_(base[rows].to(total.dtype) + total)


def _sum(
    terms: Sequence[Term], lefts: Sequence[torch.Tensor], rights: Sequence[torch.Tensor], like: torch.Tensor
) -> torch.Tensor:
    """Return ``sum coefficient * left @ right^T``, ``[rows, columns]``, in the precision of weights like ``like``."""
    dtype = noise.compute_dtype(like)
    total: torch.Tensor | None = None
    for term, left, right in zip(terms, lefts, rights, strict=True):
        scaled = left.to(like.device, dtype) * torch.tensor(term.coefficient, dtype=dtype)
        columns = right.to(like.device, dtype)
        for number in range(right.shape[1]):
            # Two operations: in one, a machine may or may not round in between.
            product = scaled[:, number, None] * columns[:, number]
            total = product if total is None else total.add_(product)
    return torch.zeros((), dtype=dtype, device=like.device).expand(like.shape) if total is None else total


def _row_blocks(start: int, stop: int, width: int) -> Iterator[tuple[int, int]]:
    """Cut a run of elements into blocks that end where rows do."""
    rows = max(1, _BLOCK // max(1, width))
    low = start
    while low < stop:
        high = min(stop, (low // width + rows) * width)
        yield low, high
        low = high


def factor(directions: DenseDirections, term: Term, parameter: int, start: int, rows: int, rank: int) -> torch.Tensor:
    """Return noise as a ``[rows, rank]`` float32 matrix that begins at element ``start`` of an address."""
    z = torch.zeros(rows, rank)
    directions.combine([Span(z, z, parameter, start)], [Term(term.step, term.query, 1.0)])
    return z


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

    def left(self, term: Term, parameter: int, low: int, high: int, shape: torch.Size) -> torch.Tensor:
        """See :class:`Factors`."""
        rank = self.rank
        return factor(self.dense, term, parameter, low * rank, high - low, rank) / math.sqrt(rank)

    def right(self, term: Term, parameter: int, shape: torch.Size) -> torch.Tensor:
        """See :class:`Factors`."""
        if self.period is not None:
            term = Term(term.step // self.period * self.period, 0, 1.0)
        # Behind the elements of U, which may be of the same step and query.
        return factor(self.dense, term, parameter, shape[0] * self.rank, shape[1], self.rank)


class OrthonormalFactors:
    """``z = s U Z V^T``: U and V have orthonormal columns and last for some steps, Z is noise ``[rank, rank]``.

    ``s = sqrt(rows * columns) / rank`` makes the elements' mean square 1, as that of dense noise is.
    U and V of the current period are kept: ``(rows + columns) * rank`` numbers for each matrix.
    """

    def __init__(self, dense: DenseDirections, rank: int, period: int) -> None:
        self._dense, self._rank, self._period = dense, rank, period
        self._kept: dict[int, tuple[int, torch.Tensor, torch.Tensor]] = {}

    def _bases(self, step: int, parameter: int, shape: torch.Size) -> tuple[torch.Tensor, torch.Tensor, int]:
        rows, columns = shape
        rank = min(self._rank, rows, columns)
        began = step // self._period * self._period
        kept = self._kept.get(parameter)
        if kept is None or kept[0] != began:
            # Behind the elements of Z, which may be of the same step and query.
            address, start = Term(began, 0, 1.0), self._rank * self._rank
            left = factor(self._dense, address, parameter, start, rows, rank)
            right = factor(self._dense, address, parameter, start + rows * rank, columns, rank)
            kept = self._kept[parameter] = began, noise.orthonormal(left), noise.orthonormal(right)
        return kept[1], kept[2], rank

    def left(self, term: Term, parameter: int, low: int, high: int, shape: torch.Size) -> torch.Tensor:
        """See :class:`Factors`."""
        basis, _, rank = self._bases(term.step, parameter, shape)
        inner = factor(self._dense, term, parameter, 0, rank, rank) * (math.sqrt(shape[0] * shape[1]) / rank)
        product = torch.zeros(high - low, rank)
        for number in range(rank):
            product.add_(basis[low:high, number, None] * inner[number])
        return product

    def right(self, term: Term, parameter: int, shape: torch.Size) -> torch.Tensor:
        """See :class:`Factors`."""
        return self._bases(term.step, parameter, shape)[1]
