"""Directions shaped by numbers that are kept for each element: HiZOO's scales, ConMeZO's momentum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from zoft.directions.blockwise import BlockwiseDirections
from zoft.directions.dense import DenseDirections
from zoft.directions.stateless import Stateless
from zoft.directions.states import ElementStates
from zoft.errors import ConfigError
from zoft.noise import Span, Term
from zoft.parameters import Trainable

Shape = Callable[[torch.Tensor, torch.Tensor, Sequence[Term]], torch.Tensor]
"""``(total, state, terms) -> sum of directions`` on some elements: total is the sum of noise, and may be changed."""


@dataclass(frozen=True)
class KeptDirections(Stateless, BlockwiseDirections):
    """Dense noise, changed elementwise by one kept number for each element. The method's rule changes the numbers.

    Attributes:
        dense: The noise.
        states: The numbers, one for each element, which the rule shares; they are the rule's to save.
        shape: How they change the noise.
        trainables: The parameters, by number; see :meth:`over`.
    """

    dense: DenseDirections
    states: ElementStates
    shape: Shape
    trainables: tuple[Trainable, ...] = ()

    def over(self, trainables: Sequence[Trainable]) -> KeptDirections:
        """The same over these parameters.

        Raises:
            ConfigError: If they are sharded over processes.
        """
        for trainable in trainables:
            _refuse_shards(trainable)
        return replace(self, trainables=tuple(trainables))

    def change(self, total: torch.Tensor, base: torch.Tensor, span: Span, terms: Sequence[Term]) -> torch.Tensor:
        """See :class:`zoft.directions.blockwise.BlockwiseDirections`."""
        trainable = self.trainables[span.parameter]
        _refuse_shards(trainable)  # it may have been sharded since
        state = self.states.of(trainable)[0].view(-1)[span.start : span.start + total.numel()]
        return self.shape(total, state.to(total.device), terms)


def _refuse_shards(trainable: Trainable) -> None:
    if trainable.slot.is_sharded:
        raise ConfigError(
            f"this method's directions depend on numbers kept for each weight, and {trainable.name} is sharded over "
            "processes; use a method without (mezo, fzoo, ...), or do not shard."
        )
