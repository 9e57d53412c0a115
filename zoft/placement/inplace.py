"""``inplace``: MeZO's way. Move the weights, evaluate, move them back; nothing is stored, and rounding stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from zoft.directions import Combiner, write_weights
from zoft.errors import ConfigError
from zoft.interrupts import uninterrupted
from zoft.noise import Term
from zoft.parameters import Trainable
from zoft.placement.evaluated import Evaluated
from zoft.types import LossFn


class InplacePlacement(Evaluated):
    """Restores float32 weights to about 1e-7 (relative) a step; 16-bit weights drift and need ``force``.

    Moving from one point to the next takes a single pass, so a two-sided step costs three (Malladi et al.
    2023, arXiv 2305.17333, Algorithm 1).
    """

    name = "inplace"

    def __init__(self, trainables: Sequence[Trainable], directions: Combiner) -> None:
        self._trainables = trainables
        self._directions = directions
        self._offset: dict[tuple[int, int], float] = {}

    @staticmethod
    def check(trainables: Sequence[Trainable]) -> None:
        """Raise ConfigError if moving these weights there and back changes them."""
        short = [t for t in trainables if t.parameter.dtype in (torch.bfloat16, torch.float16)]
        if short:
            raise ConfigError(
                f"placement='inplace' cannot give 16-bit weights back ({short[0].name} is {short[0].parameter.dtype}): "
                "they drift by 17% in 2,000 steps that change nothing. Use placement='stream' or 'snapshot', "
                "or force=True (--zo_force) to reproduce MeZO as published."
            )

    def _move(self, target: dict[tuple[int, int], float]) -> None:
        addresses = dict.fromkeys((*self._offset, *target))
        terms = [Term(*address, target.get(address, 0.0) - self._offset.get(address, 0.0)) for address in addresses]
        with uninterrupted():
            if any(term.coefficient for term in terms):
                write_weights(self._directions, self._trainables, terms)
            self._offset = target

    @contextmanager
    def session(self) -> Iterator[None]:
        """See :class:`zoft.placement.Placement`."""
        try:
            yield
        finally:
            self._move({})

    @contextmanager
    def at(self, terms: Sequence[Term]) -> Iterator[None]:
        """See :class:`zoft.placement.evaluated.Evaluated`."""
        self._move({(term.step, term.query): term.coefficient for term in terms})
        yield

    def extra_bytes(self) -> int:
        """See :class:`zoft.placement.evaluated.Evaluated`."""
        return 0

    def proved(self, loss_fn: LossFn) -> InplacePlacement:
        """The parameters themselves are moved, so every reader is reached."""
        return self
