"""A rule that keeps its state of a matrix in the factors of low-rank directions, and of other weights by element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from zoft.directions import DenseDirections, Directions, GivenFactors, LowRankDirections, write_weights
from zoft.noise import Term
from zoft.types import StepRecord
from zoft.updates.elementwise import Elements, Elementwise
from zoft.updates.rule import Group


class FactoredSteps(Protocol):
    """Makes the steps of matrices, ``u = left @ right^T``, of estimates and of what it keeps.

    What it keeps for a matrix is whole on every process, also where the matrix is sharded.
    """

    def state_size(self, shape: torch.Size) -> int:
        """Return how many float32 numbers are kept for a matrix of this shape."""

    def factors(
        self, gradient: Sequence[Term], parameter: int, shape: torch.Size, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take in a step's estimate of one matrix, and return left and right of its step, float32, on the CPU."""

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""


class Factored:
    """``theta = decay theta - lr u``, u a product of factors for matrices, elementwise for other weights."""

    steps_along_gradient = False

    def __init__(self, steps: FactoredSteps, elements: Elements, num_states: int, dense: DenseDirections) -> None:
        """Make a rule without history.

        Args:
            steps: The steps of matrices.
            elements: The steps of other weights, on a block of elements.
            num_states: Numbers kept for each of those elements, zeros at the start.
            dense: The run's noise, whose key keys the rounding.
        """
        self._steps, self._dense = steps, dense
        self._others = Elementwise(elements, num_states, dense.key)

    def state_size(self, shape: torch.Size) -> int:
        """See :class:`zoft.updates.Rule`."""
        return self._steps.state_size(shape) if len(shape) == 2 else self._others.state_size(shape)

    def descend(
        self, directions: Directions, groups: Sequence[Group], gradient: Sequence[Term], record: StepRecord
    ) -> None:
        """See :class:`zoft.updates.Rule`."""
        others = []
        for group in groups:
            others.append(group._replace(trainables=[t for t in group.trainables if len(t.stored().shape) != 2]))
            for trainable in group.trainables:
                shape = trainable.stored().shape
                if len(shape) != 2:
                    continue
                factors = GivenFactors(*self._steps.factors(gradient, trainable.number, shape, record.step))
                write_weights(
                    LowRankDirections(self._dense, factors, {trainable.number: shape}),
                    [trainable],
                    [Term(record.step, 0, -group.lr)],
                    decay=group.decay,
                    rounding="stochastic",
                    rounding_step=record.step,
                )
        self._others.descend(directions, others, gradient, record)

    def state_dict(self) -> dict[str, Any]:
        """See :class:`zoft.updates.Rule`."""
        return {"others": self._others.state_dict(), "steps": self._steps.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`zoft.updates.Rule`."""
        self._others.load_state_dict(state["others"])
        self._steps.load_state_dict(state["steps"])
