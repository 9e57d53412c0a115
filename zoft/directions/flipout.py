"""Directions that share one noise and differ by signs: pseudo-independent, and cheap for a whole batch.

``z_i = r_i s_i^T * u`` elementwise, with dense noise u and random signs ``r_i [rows]``, ``s_i [columns]``; of a vector,
``r_i * u`` (Wen et al. 2018, Flipout, arXiv 1803.04386). Other shapes count as matrices of their first dimension by the
rest. Each z_i has the distribution of u if that is symmetric, and two of them are uncorrelated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from zoft.directions.blocks import add_blocks
from zoft.directions.dense import DenseDirections
from zoft.directions.factors import factor
from zoft.directions.low_rank import products
from zoft.directions.stateless import Stateless
from zoft.directions.two_passes import TwoPasses
from zoft.directions.unfactored import Unfactored
from zoft.noise import Rounding, Span, Term
from zoft.noise.blocks import rows_of
from zoft.parameters import Trainable


@dataclass(frozen=True)
class FlipoutDirections(TwoPasses, Unfactored, Stateless):
    """One noise a step; a term's query says whose signs it bears.

    Attributes:
        dense: The noise: query 0 of each step.
        shapes: The shape of each parameter, by number; see :meth:`over`.
    """

    dense: DenseDirections
    shapes: Mapping[int, torch.Size] = field(default_factory=dict)

    def over(self, trainables: Sequence[Trainable]) -> FlipoutDirections:
        """The same over parameters of these shapes."""
        return replace(self, shapes={t.number: t.stored().shape for t in trainables})

    def rows(self, term: Term, parameter: int, low: int, high: int) -> torch.Tensor:
        """Return r from ``low`` to ``high``, ``[high - low, 1]``, float32, on the CPU."""
        return factor(self._signs, term._replace(query=term.query + 1), parameter, low, high - low, 1)

    def columns(self, term: Term, parameter: int) -> torch.Tensor:
        """Return s, ``[columns, 1]``, float32, on the CPU; of a vector, a one."""
        rows, columns = as_matrix(self.shapes[parameter])
        if len(self.shapes[parameter]) < 2:
            return torch.ones(1, 1)
        # Behind the elements of r.
        return factor(self._signs, term._replace(query=term.query + 1), parameter, rows, columns, 1)

    @property
    def _signs(self) -> DenseDirections:
        return replace(self.dense, distribution="rademacher")

    def noise(self, step: int, parameter: int, like: torch.Tensor, start: int = 0) -> torch.Tensor:
        """Return u from element ``start`` on, in shape, dtype and place of another tensor."""
        u = torch.zeros(like.shape, dtype=like.dtype, device=like.device)
        self.dense.combine([Span(u, u, parameter, start)], [Term(step, 0, 1.0)])
        return u

    def combine(
        self,
        spans: Sequence[Span],
        terms: Sequence[Term],
        *,
        decay: float = 1.0,
        rounding: Rounding = "nearest",
        rounding_step: int = 0,
    ) -> None:
        """See :func:`zoft.noise.combine`; all terms are of one step."""
        for span in spans:
            columns = [self.columns(term, span.parameter) for term in terms]
            add_blocks(
                span,
                as_matrix(self.shapes[span.parameter])[1],
                partial(self._total, terms, columns),
                decay=decay,
                rounding=rounding,
                rounding_step=rounding_step,
                key=self.dense.key,
            )

    def _total(self, terms: Sequence[Term], columns: Sequence[torch.Tensor], block: Span) -> torch.Tensor:
        width = as_matrix(self.shapes[block.parameter])[1]
        rows = [self.rows(term, block.parameter, *rows_of(block, width)) for term in terms]
        signs = products(block, width, terms, rows, columns)
        return signs * self.noise(terms[0].step, block.parameter, signs, block.start) if terms else signs

    def combine_rows(
        self, out: torch.Tensor, base: torch.Tensor, rows: torch.Tensor, parameter: int, terms: Sequence[Term]
    ) -> None:
        """See :func:`zoft.noise.combine_rows`."""
        for number, row in enumerate(rows.tolist()):
            self.combine([Span(out[number], base[row], parameter, row * base.shape[1])], terms)


def as_matrix(shape: torch.Size) -> tuple[int, int]:
    """Return rows and columns of a weight: its first dimension, and the rest."""
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)
