"""``snapshot``: perturb in place, restore from a copy. Exact for any dtype; costs one copy of the trainables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from zoft.directions import Combiner, write_weights
from zoft.noise import Term
from zoft.parameters import Trainable
from zoft.placement.evaluated import Evaluated
from zoft.types import LossFn


class SnapshotPlacement(Evaluated):
    """Default where the trainables are few: adapters, prompts, norms, heads."""

    name = "snapshot"

    def __init__(self, trainables: Sequence[Trainable], directions: Combiner) -> None:
        self._trainables = trainables
        self._directions = directions
        self._saved: list[torch.Tensor] = []

    @contextmanager
    def session(self) -> Iterator[None]:
        """See :class:`zoft.placement.Placement`."""
        self._saved = [t.stored().tensor.clone(memory_format=torch.contiguous_format) for t in self._trainables]
        try:
            yield
        finally:
            for trainable, saved in zip(self._trainables, self._saved, strict=True):
                trainable.stored().tensor.copy_(saved)
            self._saved = []

    @contextmanager
    def at(self, terms: Sequence[Term]) -> Iterator[None]:
        """See :class:`zoft.placement.evaluated.Evaluated`."""
        write_weights(self._directions, self._trainables, terms, bases=self._saved)
        yield

    def extra_bytes(self) -> int:
        """See :class:`zoft.placement.evaluated.Evaluated`: the copy."""
        return sum(t.parameter.numel() * t.parameter.element_size() for t in self._trainables)

    def proved(self, loss_fn: LossFn) -> SnapshotPlacement:
        """The parameters themselves are moved, so every reader is reached."""
        return self
