"""A private run before it begins: everything about it that is public, and what it will cost."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from zoft.errors import ConfigError, ZoftWarning
from zoft.privacy.accounting import Release, affordable, calibrated, epsilon
from zoft.privacy.config import PrivacyConfig

DEFAULT_CLIP = 1.0
"""Default of ``dp_clip_threshold``, times the square root of the number of directions."""


def steps_per_epoch(num_examples: int, expected_batch_size: int) -> int:
    """Return after how many Poisson batches each example was in one, on average; at least 1."""
    return max(1, round(num_examples / expected_batch_size))


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """What is public about a private run; make one by :meth:`of`.

    Attributes:
        config: What the user said.
        num_examples: Number of examples, N.
        expected_batch_size: Expected number of examples a step, in (0, N].
        steps: How many steps are planned.
        num_scalars: Length of an example's vector of slopes, >= 1.
        noise_multiplier: Scale of the noise over the clip threshold.
    """

    config: PrivacyConfig
    num_examples: int
    expected_batch_size: int
    steps: int
    num_scalars: int
    noise_multiplier: float

    @classmethod
    def of(
        cls, config: PrivacyConfig, *, num_examples: int, expected_batch_size: int, steps: int, num_scalars: int = 1
    ) -> PrivacyPlan:
        """Plan a run, with the noise that its budget asks for.

        Raises:
            ConfigError: If a number is out of range, or the Laplace mechanism is to release several at once.
        """
        for name, value in (("num_examples", num_examples), ("steps", steps), ("num_scalars", num_scalars)):
            if value < 1:
                raise ConfigError(f"{name} must be >= 1, got {value}.")
        if not 1 <= expected_batch_size <= num_examples:
            raise ConfigError(
                f"the expected batch size must be between 1 and the number of examples, {num_examples}; got "
                f"{expected_batch_size}. That is per_device_train_batch_size, times "
                "gradient_accumulation_steps, times the number of processes."
            )
        if config.dp_mechanism == "laplace" and num_scalars > 1:
            raise ConfigError(
                f"dp_mechanism='laplace' releases one number a step, and this method has {num_scalars}: use one "
                "that takes a single direction, such as mezo with num_queries=1, or dp_mechanism='gaussian'."
            )
        if config.dp_clip_quantile is not None and config.dp_clip_steps >= steps:
            raise ConfigError(
                f"dp_clip_quantile takes the first dp_clip_steps={config.dp_clip_steps} of {steps} steps, which leaves "
                "none to train in. Lower dp_clip_steps, take more steps, or give dp_clip_threshold."
            )
        delta = config.dp_target_delta
        if delta is not None and delta * num_examples >= 1.0:
            warnings.warn(
                f"dp_target_delta={delta} is not below 1 / {num_examples}, the number of examples: a promise that may "
                "be broken for one of them is none. Lower it.",
                ZoftWarning,
                stacklevel=2,
            )
        noise_multiplier = config.dp_noise_multiplier
        if noise_multiplier is None:
            assert config.dp_target_epsilon is not None
            noise_multiplier = calibrated(
                target_epsilon=config.dp_target_epsilon,
                delta=delta,
                sample_rate=expected_batch_size / num_examples,
                steps=steps,
                accountant=config.dp_accountant,
                mechanism=config.dp_mechanism,
            )
        return cls(
            config=config,
            num_examples=num_examples,
            expected_batch_size=expected_batch_size,
            steps=steps,
            num_scalars=num_scalars,
            noise_multiplier=noise_multiplier,
        )

    @property
    def sample_rate(self) -> float:
        """Probability of an example to be in a batch."""
        return self.expected_batch_size / self.num_examples

    @property
    def release(self) -> Release:
        """What each step publishes."""
        return Release(self.config.dp_mechanism, self.noise_multiplier, self.sample_rate)

    @property
    def first_clip(self) -> float:
        """The clip threshold, or where measuring it begins."""
        given = self.config.dp_clip_threshold
        return DEFAULT_CLIP * math.sqrt(self.num_scalars) if given is None else given

    @property
    def measuring_steps(self) -> int:
        """How many of the first steps measure the clip threshold."""
        return 0 if self.config.dp_clip_quantile is None else self.config.dp_clip_steps

    def epsilon(self, steps: int) -> float:
        """Return what so many steps cost."""
        return epsilon([(self.release, steps)], delta=self.config.dp_target_delta, accountant=self.config.dp_accountant)

    def affordable(self, most: int) -> int:
        """Return how many steps the budget pays for, of ``most``."""
        if self.config.dp_target_epsilon is None:
            return most
        return affordable(
            self.release,
            target_epsilon=self.config.dp_target_epsilon,
            delta=self.config.dp_target_delta,
            accountant=self.config.dp_accountant,
            most=most,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PrivacyPlan:
        """Return the plan that :meth:`to_dict` described."""
        return cls(**{**values, "config": PrivacyConfig(**values["config"])})

    def __str__(self) -> str:
        config, clip = self.config, f"{self.first_clip:g}"
        if config.dp_clip_quantile is not None:
            clip = f"measured in the first {config.dp_clip_steps} steps (quantile {config.dp_clip_quantile:g})"
        promise = f"noise multiplier {self.noise_multiplier:.4g}"
        if config.dp_target_epsilon is not None:
            promise += f" for epsilon {config.dp_target_epsilon:g}{config.at_delta}"
        by = "pure epsilon" if config.dp_mechanism == "laplace" else f"accountant {config.dp_accountant}"
        return (
            f"{config.dp_mechanism} mechanism, {promise} ({by}), sampling rate {self.sample_rate:.4g} "
            f"({self.expected_batch_size} of {self.num_examples} examples a step), {self.steps} steps, clip threshold "
            f"{clip}; one example more or less (add/remove)"
        )
