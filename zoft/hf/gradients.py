"""A trainer of problems by gradients, which zeroth-order training is compared with."""

from __future__ import annotations

from typing import Any

from zoft.hf.model_card import HowTrained, budget_rows
from zoft.hf.tasks import ProblemTrainer

__all__ = ["FORWARDS_PER_STEP", "GradientTrainer"]

FORWARDS_PER_STEP = 3
"""What a step by gradients counts for: its backward pass takes about the arithmetic of two forwards."""


class GradientTrainer(ProblemTrainer):
    """Trains a problem by gradients.

    Args:
        method: What reports and cards call the optimizer.
        **kwargs: See :class:`zoft.hf.tasks.ProblemTrainer`.
    """

    def __init__(self, *, method: str, **kwargs: Any) -> None:
        self._method = method
        super().__init__(**kwargs)

    @property
    def forwards(self) -> int:
        """What the steps so far count for, on each process."""
        return FORWARDS_PER_STEP * int(self.state.global_step) * self.args.gradient_accumulation_steps

    def how_trained(self) -> HowTrained:
        """See :class:`zoft.hf.model_card.ModelCards`."""
        length = budget_rows(
            self.args,
            steps=self.state.global_step,
            forwards=self.forwards,
            remark=f"a step by gradients counted for {FORWARDS_PER_STEP}",
            examples="",
            rate=f"{self.args.learning_rate:g}",
            trained=self.get_num_trainable_parameters(),
        )
        return HowTrained(f"by gradients ({self._method})", [("method", self._method), *length])
