"""A model's outputs as a function of its trained weights, and the run's directions over these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call, jvp

from zoft.directions import Directions
from zoft.errors import ConfigError
from zoft.method import build_method
from zoft.noise import Span, Term
from zoft.parameters import Trainable, select
from zoft.types import ZOConfig

__all__ = ["Outputs", "Weights", "inner", "one_each"]

Weights = dict[str, torch.Tensor]
"""Trained weights, or a direction over them, by the parameter's name."""


def inner(a: Weights, b: Weights) -> torch.Tensor:
    """Return the inner products ``[m_a, m_b]`` of two stacks of directions, in float64 on the CPU."""
    return torch.stack([a[name].flatten(1).double() @ b[name].flatten(1).double().T for name in a]).sum(0).cpu()


def one_each(out: object, x: torch.Tensor) -> torch.Tensor:
    """Return a model's outputs as ``[n]``.

    Raises:
        ConfigError: If they are not one number for each row of ``x``.
    """
    if not isinstance(out, torch.Tensor) or out.shape not in ((len(x),), (len(x), 1)):
        got = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        raise ConfigError(
            f"the model must return one number for each of the {len(x)} rows, got {got}: wrap it in a module that "
            "picks one output."
        )
    return out.reshape(len(x))


@dataclass(frozen=True)
class Outputs:
    """``f(x; theta)``, one number for each row of x.

    Attributes:
        model: Maps x to ``[n]`` or ``[n, 1]``.
        trainables: The weights theta.
        directions: What a run with the same configuration draws.
    """

    model: nn.Module
    trainables: tuple[Trainable, ...]
    directions: Directions

    @staticmethod
    def of(model: nn.Module, config: ZOConfig) -> Outputs:
        """Take the trained parameters and the directions from a run's configuration."""
        trainables = select(model, config.include, config.exclude)
        return Outputs(model, trainables, build_method(config).directions.over(trainables))

    @property
    def dimension(self) -> int:
        """Number of trained weights, d."""
        return sum(t.parameter.numel() for t in self.trainables)

    def weights(self) -> Weights:
        """The weights now; not a copy."""
        return {t.name: t.parameter.detach() for t in self.trainables}

    def draw(self, terms: Sequence[tuple[int, int]]) -> Weights:
        """Return the directions of the given (step, query) pairs, stacked: ``[m, *shape]`` for each parameter."""
        bases = {t.name: t.parameter.detach().contiguous() for t in self.trainables}
        drawn = {name: base.new_empty((len(terms), *base.shape)) for name, base in bases.items()}
        for row, (step, query) in enumerate(terms):
            spans = [Span(drawn[t.name][row], bases[t.name], t.number) for t in self.trainables]
            self.directions.combine(spans, [Term(step, query, 1.0)], decay=0.0)
        return drawn

    def at(self, weights: Weights, x: torch.Tensor) -> torch.Tensor:
        """Evaluate at any weights.

        Returns:
            ``[n]``.

        Raises:
            ConfigError: If the model does not return one number a row.
        """
        return one_each(functional_call(self.model, weights, (x,)), x)

    def along(self, direction: Weights, x: torch.Tensor, zo_eps: float | None = None) -> torch.Tensor:
        """Return the outputs' derivatives along one direction, ``z^T g_i``.

        Args:
            direction: z.
            x: ``[n, ...]``.
            zo_eps: None: exactly, by forward-mode differentiation. A number: by central differences of that size.

        Returns:
            ``[n]``.
        """
        weights = self.weights()
        if zo_eps is None:
            derivative: torch.Tensor = jvp(lambda w: self.at(w, x), (weights,), (direction,))[1]
            return derivative
        plus, minus = ({n: w + s * direction[n] for n, w in weights.items()} for s in (zo_eps, -zo_eps))
        return (self.at(plus, x) - self.at(minus, x)) / (2.0 * zo_eps)
