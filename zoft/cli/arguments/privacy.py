"""What of the training rows may be told."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from zoft.errors import ConfigError

__all__ = ["PrivacyArguments"]


@dataclass
class PrivacyArguments:
    """Differential privacy of the training rows; on as soon as there is a budget or a noise scale."""

    _argument_group_name = "privacy"

    dp_target_epsilon: float | None = field(
        default=None,
        metadata={"help": "The budget. The noise is made to fit it, and training stops before it would be exceeded."},
    )
    dp_target_delta: float | None = field(
        default=None,
        metadata={"help": "Probability with which the promise may fail: well below 1 / number of rows, e.g. 1e-5."},
    )
    dp_noise_multiplier: float | None = field(
        default=None, metadata={"help": "Scale of the noise over dp_clip_threshold, in place of a budget."}
    )
    dp_clip_threshold: float | None = field(
        default=None,
        metadata={
            "help": "Largest norm of an example's slopes that counts; default: a constant times the square root of the "
            "number of directions (docs/privacy.md)."
        },
    )
    dp_clip_quantile: float | None = field(
        default=None,
        metadata={"help": "In place of a threshold: measure, privately, the norm below which this share of rows is."},
    )
    dp_clip_steps: int = field(default=20, metadata={"help": "How many of the first steps measure it."})
    dp_mechanism: Literal["gaussian", "laplace"] = field(
        default="gaussian", metadata={"help": "Distribution of the noise; laplace: pure epsilon, one direction a step."}
    )
    dp_accountant: Literal["prv", "rdp"] = field(default="prv", metadata={"help": "Opacus's accountant."})
    dp_eval_is_public: bool = field(
        default=False,
        metadata={
            "help": "The evaluation rows are public: measure them exactly, before and after, as without privacy."
        },
    )

    def __post_init__(self) -> None:
        given = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        if given and not self.is_private:
            raise ConfigError(
                f"{given[0]} is for private runs, and this is none; add --dp_target_epsilon (and --dp_target_delta) "
                "or --dp_noise_multiplier"
            )

    @property
    def is_private(self) -> bool:
        """Whether the run is to be private."""
        return self.dp_target_epsilon is not None or self.dp_noise_multiplier is not None
