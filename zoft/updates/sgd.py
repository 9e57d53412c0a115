"""Plain descent: the estimate goes into the weights in one pass, and nothing is kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from zoft.directions import Directions, write_weights
from zoft.noise import Term
from zoft.types import StepRecord
from zoft.updates.rule import Group
from zoft.updates.stateless import Stateless


class Sgd(Stateless):
    """``theta = decay theta - lr g``."""

    steps_along_gradient = True

    def state_size(self, shape: torch.Size) -> int:
        """Nothing."""
        return 0

    def descend(
        self, directions: Directions, groups: Sequence[Group], gradient: Sequence[Term], record: StepRecord
    ) -> None:
        """See :class:`zoft.updates.Rule`."""
        for trainables, lr, decay in groups:
            terms = [Term(t.step, t.query, -lr * t.coefficient) for t in gradient if lr * t.coefficient != 0.0]
            # Adding zero is not nothing: it turns -0.0 into 0.0.
            if terms or decay != 1.0:
                write_weights(
                    directions, trainables, terms, decay=decay, rounding="stochastic", rounding_step=record.step
                )
