"""What a point yields where weights are moved to it: one number."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch

from zoft.errors import ConfigError
from zoft.noise import Term
from zoft.placement.one_by_one import OneByOne
from zoft.types import LossFn


class Evaluated(OneByOne):
    """Placements that move weights, or seem to."""

    @abstractmethod
    def at(self, terms: Sequence[Term]) -> AbstractContextManager[None]:
        """Within a session: forwards inside see ``theta + sum coefficient * z``; no terms means theta itself."""

    @abstractmethod
    def extra_bytes(self) -> int:
        """Return how much memory evaluating takes beyond the weights and what a plain forward takes."""

    def evaluate(self, terms: Sequence[Term], loss_fn: LossFn) -> tuple[float, ...]:
        """See :class:`zoft.placement.Placement`: the loss.

        Raises:
            ConfigError: If the closure does not return one number.
        """
        return self.evaluate_each(terms, [loss_fn])

    def evaluate_each(self, terms: Sequence[Term], loss_fns: Sequence[LossFn]) -> tuple[float, ...]:
        """Return what each of several closures yields at one point, for which the weights are moved once.

        Raises:
            ConfigError: If a closure does not return one number.
        """
        with self.at(terms):
            return tuple(float(single(loss_fn())) for loss_fn in loss_fns)


def single(loss: torch.Tensor) -> torch.Tensor:
    """Return a loss as it is.

    Raises:
        ConfigError: If it is not a single number.
    """
    if loss.numel() != 1:
        raise ConfigError(
            "the loss closure must return a tensor with one element (the mean loss), got a tensor of shape "
            f"{tuple(loss.shape)}. Losses of single examples serve shared_vector='example' and grzo."
        )
    return loss
