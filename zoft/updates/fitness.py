"""The gradient of an evolution strategy: members weighted by a fitness that only compares them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from zoft.errors import ConfigError, did_you_mean
from zoft.noise import Term
from zoft.updates.stateless import Stateless


def standardized(losses: Sequence[float]) -> list[float]:
    """Return the losses less their mean, over their standard deviation; zeros if all are equal."""
    mean = math.fsum(losses) / len(losses)
    spread = math.sqrt(math.fsum((loss - mean) * (loss - mean) for loss in losses) / len(losses))
    return [0.0 if spread == 0.0 else (loss - mean) / spread for loss in losses]


def centered_ranks(losses: Sequence[float]) -> list[float]:
    """Return the losses' ranks, scaled to [-1/2, 1/2]; equal losses share the mean of their ranks."""
    below = [sum(other < loss for other in losses) for loss in losses]
    equal = [losses.count(loss) - 1 for loss in losses]
    return [(low + ties / 2.0) / (len(losses) - 1) - 0.5 for low, ties in zip(below, equal, strict=True)]


_SHAPES: dict[str, Callable[[Sequence[float]], list[float]]] = {"zscore": standardized, "ranks": centered_ranks}


def shaping(name: str) -> Callable[[Sequence[float]], list[float]]:
    """Return the function of a name: ``"zscore"`` or ``"ranks"``.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in _SHAPES:
        raise ConfigError(f"shaping must be one of {', '.join(_SHAPES)}, got {name!r}.{did_you_mean(name, _SHAPES)}")
    return _SHAPES[name]


class FitnessShaped(Stateless):
    """``g = mean over members of fitness(loss) * sign * z``, the sign being that of the member's half of its pair."""

    def __init__(self, shape: Callable[[Sequence[float]], list[float]]) -> None:
        self._shape = shape

    def gradient(self, step: int, scalars: Sequence[float]) -> list[Term]:
        """See :class:`zoft.updates.Update`; the scalars are the members' losses, in pairs, but for an offset."""
        fitness = self._shape(list(scalars))
        pairs = zip(fitness[::2], fitness[1::2], strict=True)
        return [Term(step, k, (plus - minus) / len(fitness)) for k, (plus, minus) in enumerate(pairs)]
