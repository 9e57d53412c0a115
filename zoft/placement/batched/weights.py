"""The trained weights of several points: whole copies where they are small, factors where directions are of low rank.

Shapes: P points; a matrix of ``rows`` by ``columns``; directions of rank k.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from zoft.directions import Directions
from zoft.errors import ConfigError
from zoft.noise import Span, Term
from zoft.parameters import Trainable


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
        needed: These weights, by number.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.needed: dict[int, Trainable] = {}

    def points(self) -> int:
        """Return for how many points there is room, >= 2."""
        return self._limit_bytes // max(1, self._bytes())

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
                f"placement='batched' takes a copy of {names[-1]}{others} for each point, {self._bytes() / 2**20:.1f} "
                f"MiB, and has {self._limit_bytes / 2**20:.1f} MiB for all of them: the method's directions are not of "
                "low rank. Train an adapter (LoRA, IA3), norms or biases, use a method whose directions are (lozo, "
                "eggroll, subzero), raise scratch_mib, or use placement='stream'."
            )

    def _bytes(self) -> int:
        return sum(t.parameter.numel() * t.parameter.element_size() for t in self.needed.values())


class PointWeights:
    """The weights of the points of one forward."""

    def __init__(self, directions: Directions, points: Sequence[Sequence[Term]], copies: Copies) -> None:
        self._directions, self._points, self._copies = directions, points, copies
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
        bases = [trainable.parameter.data.contiguous() for trainable in trainables]
        for place, terms in enumerate(self._points):
            spans = [
                Span(self._whole[trainable.number][place], base, trainable.number)
                for trainable, base in zip(trainables, bases, strict=True)
            ]
            self._directions.combine(spans, terms)


def _stacked(factors: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """Stack ``[n, k]`` matrices of different k, with zeros behind the shorter ones, as ``[P, n, k]``."""
    padded = pad_sequence([factor.T for factor in factors], batch_first=True)  # [P, k, n]
    return padded.transpose(1, 2).to(like.device, like.dtype).contiguous()
