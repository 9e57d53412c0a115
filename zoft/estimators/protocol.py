"""The seam between a method and the engine: points in, losses out, linear scalars kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from zoft.noise import Term
from zoft.types import Estimate


class Point(NamedTuple):
    """One evaluation.

    Attributes:
        name: For messages.
        terms: The offset from theta; where the loss is differentiated, the direction; where examples have directions
            of their own, theirs one by one.
        num_values: How many numbers it yields: the loss; with its derivative, two; each example's loss.
    """

    name: str
    terms: tuple[Term, ...]
    num_values: int = 1


class Estimator(Protocol):
    """Plans evaluations and combines their losses, linearly, so that micro-batches and ranks add up."""

    @property
    def kind(self) -> str:
        """What the scalars are, in words; ``"slopes"`` if each is a directional derivative of the loss."""

    @property
    def num_scalars(self) -> int:
        """How many scalars an estimate has."""

    @property
    def forwards(self) -> int:
        """What a step costs, in forwards."""

    def points(self, step: int) -> list[Point]:
        """Return the points to evaluate at a step, in order."""

    def estimate(self, losses: Sequence[float]) -> Estimate:
        """Combine what :meth:`points` yield, in the same order."""

    def projected_grads(self, scalars: Sequence[float]) -> list[float]:
        """Return the directional derivative along each query, in loss per unit of z, for logs."""
