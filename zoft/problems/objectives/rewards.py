"""Rewards as an objective: minus what a model's completions are worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerState

from zoft.evaluation.judging import Judge
from zoft.evaluation.sampling import SharedNoise
from zoft.problems.problem import Losses

__all__ = ["RunState", "reward_losses"]


class RunState(TrainerCallback):
    """Knows the state of the Trainer whose callback it is.

    Attributes:
        trainer_state: The state; before training that of step 0.
    """

    def __init__(self) -> None:
        self.trainer_state = TrainerState()

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Take the state, which the Trainer changes from step to step."""
        self.trainer_state = state


def reward_losses(judge: Judge, run: RunState, *, temperature: float, seed: int) -> Losses:
    """Return the objective: minus the reward of the completion that the model writes for each prompt, in fp32, [B].

    Args:
        judge: Lets a model write after the training prompts, and says what that is worth.
        run: Knows the step.
        temperature: 0: the likeliest token each. Above 0: samples, with random numbers that are the same at all points
            at which a step evaluates the model, and others at the next step.
        seed: Decides the random numbers.
    """

    def losses(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        places, state = batch["row"].tolist(), run.trainer_state
        key = f"{seed}/{state.global_step}"
        sampling = [SharedNoise(temperature, key, places)] if temperature else []
        judged = judge(model, places, batch["row"].device, state=state, processors=sampling)
        return torch.tensor([-rewarded.reward for _, rewarded in judged], device=batch["row"].device)

    return losses
