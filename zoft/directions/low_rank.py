"""Directions that are low-rank matrices: ``z = L R^T``, made when they are needed and never stored whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from zoft import noise
from zoft.directions.dense import DenseDirections
from zoft.directions.factors import Factors, Place
from zoft.directions.stateless import Stateless
from zoft.directions.two_passes import TwoPasses
from zoft.noise import Rounding, Span, Term
from zoft.noise.blocks import rows_of
from zoft.parameters import Trainable


@dataclass(frozen=True)
class LowRankDirections(TwoPasses, Stateless):
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
        matrices = [span for span in spans if terms and len(self.shapes[span.parameter]) == 2 and span.out.numel()]
        numbers = {span.parameter for span in matrices}
        others = [span for span in spans if span.parameter not in numbers]
        if others:
            self.dense.combine(others, terms, decay=decay, rounding=rounding, rounding_step=rounding_step)
        for device, together in _together(matrices):
            noise.add_products(
                together,
                *self._stacked(together, terms, device),
                decay=decay,
                rounding=rounding,
                rounding_step=rounding_step,
                key=self.dense.key,
            )

    def _stacked(
        self, spans: Sequence[Span], terms: Sequence[Term], device: torch.device
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the matrices whose products are the sums of directions, of each span: left ones and right ones."""
        places = []
        for span in spans:
            shape = self.shapes[span.parameter]
            places.append(Place(span.parameter, *rows_of(span, shape[1]), shape))
        lefts = zip(*(self.factors.lefts(term, places, device) for term in terms), strict=True)
        # Spans of one weight have one right factor.
        firsts = {span.parameter: (place, span.base) for span, place in zip(spans, places, strict=True)}
        wholes = [place for place, _ in firsts.values()]
        rights = zip(*(self.factors.rights(term, wholes, device) for term in terms), strict=True)
        right_of = {
            number: _right(of_terms, base) for (number, (_, base)), of_terms in zip(firsts.items(), rights, strict=True)
        }
        return (
            [_left(terms, of_terms, span.base) for span, of_terms in zip(spans, lefts, strict=True)],
            [right_of[span.parameter] for span in spans],
        )

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
    return noise.product(_left(terms, lefts, like), _right(rights, like))


def _left(terms: Sequence[Term], lefts: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """Return the left matrix of the product that is :func:`weighted_sum`, ``[rows, n]``."""
    dtype = noise.compute_dtype(like)
    scaled = [
        left.to(like.device, dtype) * torch.tensor(term.coefficient, dtype=dtype)
        for term, left in zip(terms, lefts, strict=True)
    ]
    return torch.cat(scaled, 1)


def _right(rights: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """Return its right matrix, ``[n, columns]``."""
    return torch.cat([right.T for right in rights]).to(like.device, noise.compute_dtype(like))


def _together(spans: Sequence[Span]) -> Iterator[tuple[torch.device, list[Span]]]:
    """Part spans by what is done at once: on a GPU, where starting anything takes long, all; on a CPU each."""
    of_device: dict[torch.device, list[Span]] = {}
    for span in spans:
        of_device.setdefault(span.base.device, []).append(span)
    for device, there in of_device.items():
        if device.type == "cpu":
            yield from ((device, [span]) for span in there)
        else:
            yield device, there


def products(
    block: Span, width: int, terms: Sequence[Term], lefts: Sequence[torch.Tensor], rights: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Return :func:`weighted_sum` at a block's elements, flat, from the left factors of its rows."""
    total = weighted_sum(terms, lefts, rights, block.base).reshape(-1)
    return total[block.start % width :][: block.base.numel()] if terms else total
