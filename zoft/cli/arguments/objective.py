"""What is trained for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from zoft.errors import ConfigError

__all__ = ["ObjectiveArguments"]


@dataclass
class ObjectiveArguments:
    """What is trained for."""

    _argument_group_name = "objective"

    objective: str = field(
        default="cross_entropy",
        metadata={
            "help": "cross_entropy; or a metric to optimise itself: accuracy, f1, macro_f1 ..., a function such as "
            "sklearn.metrics:balanced_accuracy_score or one of your own, evaluate:NAME (docs/objectives.md)."
        },
    )
    reward_funcs: list[str] | None = field(
        default=None,
        metadata={
            "help": "In place of an objective: functions that judge what the model writes after the prompts, as "
            "package.module:function each, with the signature that TRL's GRPO has."
        },
    )
    reward_weights: list[float] | None = field(
        default=None, metadata={"help": "What each reward function counts; default: 1."}
    )
    max_completion_length: int = field(
        default=64, metadata={"help": "With reward_funcs: the longest text that is written, in tokens."}
    )
    temperature: float = field(
        default=0.0,
        metadata={
            "help": "With reward_funcs: 0 writes the likeliest tokens; above 0 samples, with the same random numbers "
            "wherever a step evaluates the model. Held-out prompts are always answered with the likeliest tokens."
        },
    )

    def __post_init__(self) -> None:
        rewarded = {f.name for f in fields(self) if getattr(self, f.name) != f.default} - {"objective", "reward_funcs"}
        if self.reward_funcs and self.objective != "cross_entropy":
            raise ConfigError(f"objective is {self.objective}, and reward_funcs are an objective; leave one out")
        if rewarded and not self.reward_funcs:
            raise ConfigError(f"{min(rewarded)} is for rewards; say by what they are given, with reward_funcs")
        if self.max_completion_length < 1:
            raise ConfigError(f"max_completion_length must be at least 1, got {self.max_completion_length}")
        if not 0.0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature must be a number >= 0 (0: no sampling), got {self.temperature}")
