"""Directions that change dense noise element by element, by what they know of each element."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch

from zoft import noise
from zoft.directions.blocks import add_blocks
from zoft.directions.dense import DenseDirections
from zoft.directions.two_passes import TwoPasses
from zoft.directions.unfactored import Unfactored
from zoft.noise import Rounding, Span, Term


class BlockwiseDirections(TwoPasses, Unfactored):
    """Writes ``base + sum coefficient * z`` in blocks; a subclass turns sums of noise into sums of its directions.

    Attributes:
        dense: The noise.
    """

    dense: DenseDirections

    @abstractmethod
    def change(self, total: torch.Tensor, base: torch.Tensor, span: Span, terms: Sequence[Term]) -> torch.Tensor:
        """Return the sum of the terms' directions at some elements.

        Args:
            total: ``sum coefficient * u``, u dense noise, flat, float32 (float64 for float64 weights); may be changed.
            base: The weights there.
            span: Where that is: the parameter, and the first element's number.
            terms: The terms.
        """

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
        for span in spans:
            add_blocks(
                span,
                1,
                lambda block: self._directed([block], block.base, terms),
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
        picked, width = base[rows], base.shape[1]
        places = [Span(b, b, parameter, row * width) for b, row in zip(picked, rows.tolist(), strict=True)]
        total = self._directed(places, picked, terms).view(picked.shape)
        out.copy_(picked.to(total.dtype) + total)

    def _directed(self, places: Sequence[Span], base: torch.Tensor, terms: Sequence[Term]) -> torch.Tensor:
        shape = (len(places), base.numel() // len(places))
        total = torch.zeros(shape, dtype=noise.compute_dtype(base), device=base.device)
        spans = [Span(z, z, place.parameter, place.start) for z, place in zip(total, places, strict=True)]
        self.dense.combine(spans, terms)
        for z, place in zip(total, places, strict=True):
            z.copy_(self.change(z, place.base.view(-1), place, terms))
        return total.view(base.shape)
