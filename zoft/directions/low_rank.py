"""Directions that are low-rank matrices: ``z = L R^T``, made when they are needed and never stored whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from zoft import noise
from zoft.directions.dense import DenseDirections
from zoft.directions.factors import Factors, Place
from zoft.directions.stateless import Stateless
from zoft.noise import Rounding, Span, Term
from zoft.parameters import Trainable


@dataclass(frozen=True)
class LowRankDirections(Stateless):
    """Matrices get ``z = left @ right^T``; vectors and tensors of other shapes get dense noise.

    The products are summed over the rank in one order, an element at a time, so that a direction has the same bits
    whatever part of it is made.

    Attributes:
        dense: Noise for what is not a matrix; its key also keys the rounding.
        factors: The factors of a matrix's direction.
        shapes: The shape of each parameter, by number; see :meth:`over`.
    """

    dense: DenseDirections
    factors: Factors
    shapes: Mapping[int, torch.Size] = field(default_factory=dict)

    def over(self, trainables: Sequence[Trainable]) -> LowRankDirections:
        """The same over parameters of these shapes."""
        return replace(self, shapes={t.number: t.stored().shape for t in trainables})

    def state_size(self, shape: torch.Size) -> int:
        """See :class:`zoft.directions.Directions`."""
        return self.factors.state_size(shape) if len(shape) == 2 else 0

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
        matrices = [span for span in spans if terms and len(self.shapes[span.parameter]) == 2]
        numbers = {span.parameter for span in matrices}
        others = [span for span in spans if span.parameter not in numbers]
        if others:
            self.dense.combine(others, terms, decay=decay, rounding=rounding, rounding_step=rounding_step)
        for device in dict.fromkeys(span.base.device for span in matrices):
            there = [span for span in matrices if span.base.device == device]
            noise.add_products(
                there,
                *self._stacked(there, terms, device),
                decay=decay,
                rounding=rounding,
                rounding_step=rounding_step,
                key=self.dense.key,
            )

    def _stacked(
        self, spans: Sequence[Span], terms: Sequence[Term], device: torch.device
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the matrices whose products are the sums of directions, of each span's rows: left ones, right ones."""
        places = []
        for span in spans:
            shape = self.shapes[span.parameter]
            places.append(Place(span.parameter, *rows_of(span, shape[1]), shape))
        lefts = [self.factors.lefts(term, places, device) for term in terms]
        rights = [self.factors.rights(term, places, device) for term in terms]
        pairs = [
            stacked(terms, of_span, their_rights, span.base)
            for span, of_span, their_rights in zip(
                spans, zip(*lefts, strict=True), zip(*rights, strict=True), strict=True
            )
        ]
        return [left for left, _ in pairs], [right for _, right in pairs]

    def factored(self, parameter: int, terms: Sequence[Term]) -> tuple[torch.Tensor, torch.Tensor] | None:
        """See :class:`zoft.directions.Directions`."""
        shape = self.shapes[parameter]
        if len(shape) != 2:
            return None
        if not terms:
            return torch.zeros(shape[0], 0), torch.zeros(shape[1], 0)
        lefts = [self.factors.left(term, parameter, 0, shape[0], shape) * term.coefficient for term in terms]
        return torch.cat(lefts, 1), torch.cat([self.factors.right(term, parameter, shape) for term in terms], 1)

    def combine_rows(
        self, out: torch.Tensor, base: torch.Tensor, rows: torch.Tensor, parameter: int, terms: Sequence[Term]
    ) -> None:
        """See :func:`zoft.noise.combine_rows`."""
        if not rows.numel():
            return
        shape, device = base.shape, base.device
        if device.type == "cpu":
            low, high = int(rows.min()), int(rows.max()) + 1
        else:  # without waiting for the device to say which
            low, high = 0, shape[0]
        lefts = [self.factors.left(term, parameter, low, high, shape, device)[rows - low] for term in terms]
        rights = [self.factors.right(term, parameter, shape, device) for term in terms]
        total = weighted_sum(terms, lefts, rights, base[rows])
        out.copy_(base[rows].to(total.dtype) + total)


def weighted_sum(
    terms: Sequence[Term], lefts: Sequence[torch.Tensor], rights: Sequence[torch.Tensor], like: torch.Tensor
) -> torch.Tensor:
    """Return ``sum coefficient * left @ right^T``, ``[rows, columns]``, in the precision of weights like ``like``."""
    if not terms:
        return torch.zeros((), dtype=noise.compute_dtype(like), device=like.device).expand(like.shape)
    return noise.product(*stacked(terms, lefts, rights, like))


def stacked(
    terms: Sequence[Term], lefts: Sequence[torch.Tensor], rights: Sequence[torch.Tensor], like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the matrices whose product is :func:`weighted_sum`, ``[rows, n]`` and ``[n, columns]``."""
    dtype = noise.compute_dtype(like)
    scaled = [
        left.to(like.device, dtype) * torch.tensor(term.coefficient, dtype=dtype)
        for term, left in zip(terms, lefts, strict=True)
    ]
    return torch.cat(scaled, 1), torch.cat([right.T for right in rights]).to(like.device, dtype)


def rows_of(block: Span, width: int) -> tuple[int, int]:
    """Return the first row that a block of a matrix has elements in, and the one behind its last."""
    return block.start // width, -(-(block.start + block.base.numel()) // width)


def products(
    block: Span, width: int, terms: Sequence[Term], lefts: Sequence[torch.Tensor], rights: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Return :func:`weighted_sum` at a block's elements, flat, from the left factors of its rows."""
    total = weighted_sum(terms, lefts, rights, block.base).reshape(-1)
    return total[block.start % width :][: block.base.numel()] if terms else total
