"""The seam between methods and placements: directions can be added to weights, in part or whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from zoft.noise import Rounding, Span, Term
from zoft.parameters import Trainable


class Combiner(Protocol):
    """Adds directions to weights: all that a placement needs."""

    def combine(
        self,
        spans: Sequence[Span],
        terms: Sequence[Term],
        *,
        decay: float = 1.0,
        rounding: Rounding = "nearest",
        rounding_step: int = 0,
    ) -> None:
        """Write ``round(decay * base + sum coefficient * z)``; see :func:`zoft.noise.combine`."""

    def combine_rows(
        self, out: torch.Tensor, base: torch.Tensor, rows: torch.Tensor, parameter: int, terms: Sequence[Term]
    ) -> None:
        """Write ``base[rows] + sum coefficient * z[rows]``; see :func:`zoft.noise.combine_rows`."""


class Directions(Combiner, Protocol):
    """A family of directions ``z(step, query)`` over the run's parameters."""

    def over(self, trainables: Sequence[Trainable]) -> Directions:
        """Return these directions over a model's parameters, whose shapes or values they may depend on."""

    def combine_both(self, spans: Sequence[Span], mirrors: Sequence[torch.Tensor], terms: Sequence[Term]) -> None:
        """Write ``base + sum coefficient * z``, and to each span's mirror ``base - sum coefficient * z``.

        Args:
            spans: See :func:`zoft.noise.combine`.
            mirrors: See there; one for each span.
            terms: See there.
        """

    def factored(self, parameter: int, terms: Sequence[Term]) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return ``sum coefficient * z`` of a matrix as ``left [rows, k]`` and ``right [columns, k]``, its factors.

        Returns:
            Float32 tensors on the CPU, of any k for no terms; None where z is not of low rank.
        """

    def state_size(self, shape: torch.Size) -> int:
        """Return how many float32 numbers are kept for a weight of this shape."""

    def state_dict(self) -> dict[str, Any]:
        """Return what cannot be had from the weights of a checkpoint, as plain JSON types."""

    def with_state(self, state: dict[str, Any]) -> Directions:
        """Return these directions with what :meth:`state_dict` returned."""
