"""What a placement is: a way to run forwards at theta + eps z and be back at theta afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from zoft.noise import Term
from zoft.types import LossFn


class Placement(Protocol):
    """Evaluates perturbed weights; leaves no trace.

    Attributes:
        name: The placement's public name.
    """

    name: str

    def session(self) -> AbstractContextManager[None]:
        """Open around all evaluations of one estimate. When it closes, however it closes, the weights are back."""

    def evaluate_all(self, points: Sequence[Sequence[Term]], loss_fn: LossFn) -> list[tuple[float, ...]]:
        """Within a session: return what each point yields, as many numbers as :class:`zoft.estimators.Point` says.

        Args:
            points: The offsets from theta, one or more.
            loss_fn: A closure that is called once for each point, in order.
        """

    def proved(self, loss_fn: LossFn) -> Placement | None:
        """Return a placement that is known to reach every parameter of this model: itself, or a fallback.

        Called before the first estimate, with the model in evaluation mode and without gradients.

        Returns:
            None if this loss, which is not finite, tells nothing.

        Raises:
            PlacementError: If some parameter is not reached and no fallback is allowed.
        """
