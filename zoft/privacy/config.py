"""What the user says about privacy."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from zoft.checks import check_choice, check_count
from zoft.errors import ConfigError

MECHANISMS = ("gaussian", "laplace")
ACCOUNTANTS = ("prv", "rdp")


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """A run's promise, and the mechanism that keeps it. Adjacency: one example more or less (add/remove).

    Attributes:
        dp_target_epsilon: The budget, > 0. The noise is made to fit it, unless ``dp_noise_multiplier`` is given;
            training stops before it would be exceeded.
        dp_target_delta: Probability with which the promise may fail, in (0, 1), well below one over the number of
            examples. The Laplace mechanism has none: leave it out there.
        dp_noise_multiplier: Scale of the noise over ``dp_clip_threshold``, > 0, in place of a target; with both, the
            target is where training stops.
        dp_clip_threshold: Largest norm of an example's vector of slopes that counts, > 0. None: see
            :data:`zoft.privacy.plan.DEFAULT_CLIP`.
        dp_clip_quantile: In place of a threshold: let the first steps measure, privately, the norm below which this
            share of the examples is, in (0, 1), and leave the weights alone meanwhile.
        dp_clip_steps: How many steps that takes, >= 1. They cost what others cost.
        dp_mechanism: ``"gaussian"``, or ``"laplace"`` for pure epsilon and one direction a step.
        dp_accountant: Opacus's accountant of the Gaussian mechanism: ``"prv"`` (tight) or ``"rdp"``.
        dp_eval_is_public: Evaluation data are public, so that what is measured on them may be shown and acted upon.
    """

    dp_target_epsilon: float | None = None
    dp_target_delta: float | None = None
    dp_noise_multiplier: float | None = None
    dp_clip_threshold: float | None = None
    dp_clip_quantile: float | None = None
    dp_clip_steps: int = 20
    dp_mechanism: str = "gaussian"
    dp_accountant: str = "prv"
    dp_eval_is_public: bool = False

    def __post_init__(self) -> None:
        for name in ("dp_target_epsilon", "dp_noise_multiplier", "dp_clip_threshold"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0.0 < value < math.inf):
                raise ConfigError(f"{name} must be a finite number > 0, got {value!r}.")
        for name in ("dp_target_delta", "dp_clip_quantile"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0.0 < value < 1.0):
                raise ConfigError(f"{name} must be a number in (0, 1), got {value!r}.")
        check_count("dp_clip_steps", self.dp_clip_steps)
        check_choice("dp_mechanism", self.dp_mechanism, MECHANISMS)
        check_choice("dp_accountant", self.dp_accountant, ACCOUNTANTS)
        if not isinstance(self.dp_eval_is_public, bool):
            raise ConfigError(f"dp_eval_is_public must be True or False, got {self.dp_eval_is_public!r}.")
        if self.dp_target_epsilon is None and self.dp_noise_multiplier is None:
            raise ConfigError(
                "a private run needs a budget (dp_target_epsilon) or a noise scale (dp_noise_multiplier); got neither."
            )
        if self.dp_mechanism == "laplace":
            if self.dp_target_delta is not None:
                raise ConfigError(
                    f"dp_target_delta={self.dp_target_delta} was given, but the Laplace mechanism is accounted without "
                    "delta (pure epsilon). Leave it out, or use dp_mechanism='gaussian'."
                )
        elif self.dp_target_delta is None:
            raise ConfigError(
                "dp_target_delta is missing: the Gaussian mechanism's epsilon holds up to a probability delta. Choose "
                "one well below 1 / number of examples, such as 1e-5."
            )
        if self.dp_clip_threshold is not None and self.dp_clip_quantile is not None:
            raise ConfigError("dp_clip_threshold and dp_clip_quantile exclude each other; give one.")

    @property
    def at_delta(self) -> str:
        """What follows an epsilon in words; nothing where it is pure."""
        return "" if self.dp_target_delta is None else f" at delta {self.dp_target_delta:g}"

    @staticmethod
    def of(config: object) -> PrivacyConfig | None:
        """Return a configuration as it is, None too.

        Raises:
            ConfigError: If it is anything else, such as a number or a dict.
        """
        if config is None or isinstance(config, PrivacyConfig):
            return config
        raise ConfigError(
            f"privacy must be a PrivacyConfig, got {config!r:.60}; write PrivacyConfig(dp_target_epsilon=..., "
            "dp_target_delta=...)."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
