"""What a method is to the engine: directions, an estimator and an update, composed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from zoft.checks import check_finite
from zoft.directions import DenseDirections, Directions, FlipoutDirections
from zoft.errors import ConfigError, did_you_mean
from zoft.estimators import Estimator, PerExample, TwoSided
from zoft.noise import Distribution, check_distribution, run_key
from zoft.registry import method_names, registration
from zoft.types import ZOConfig
from zoft.updates import Average, Rule, Sgd, Sum, Update

Evaluation = Literal["moved", "differentiated", "per_example"]
"""``moved``: the loss where the weights are moved to. ``differentiated``: the loss at theta and its derivative along a
direction. ``per_example``: the losses of the batch's examples, each with the weights moved along its own direction."""


@dataclass(frozen=True)
class Method:
    """A zeroth-order method, with every choice made.

    Attributes:
        directions: Where z comes from.
        estimator: Which points are evaluated and which scalars are kept.
        update: How the scalars become a gradient.
        config: The configuration with the method's defaults filled in.
        rule: How the gradient is written into the weights.
        evaluation: What a point stands for: see :data:`Evaluation`.
        needs_one_lr: Whether all parameter groups must have the same learning rate.
    """

    directions: Directions
    estimator: Estimator
    update: Update
    config: ZOConfig
    rule: Rule = field(default_factory=Sgd)
    evaluation: Evaluation = "moved"
    needs_one_lr: bool = False

    def check_lrs(self, lrs: Sequence[float]) -> None:
        """Raise ConfigError if a step cannot be taken at these learning rates of the parameter groups."""
        if self.needs_one_lr and len(set(lrs)) > 1:
            raise ConfigError(
                f"method {self.config.method!r} needs one learning rate for all parameters; its groups have "
                f"{', '.join(map(str, lrs))}."
            )

    @property
    def can_measure_lr(self) -> bool:
        """Whether losses along its steps, at moved weights, say how long they should be."""
        return self.rule.steps_along_gradient and self.evaluation == "moved"

    def state_size(self, shape: torch.Size) -> int:
        """Return how many float32 numbers the method keeps for a weight of this shape, beyond inference."""
        return self.directions.state_size(shape) + self.rule.state_size(shape)


def build_method(config: ZOConfig) -> Method:
    """Build the method that the configuration names.

    Raises:
        ConfigError: If the method or one of its options is unknown or out of range, or does not go with ``zo_lr``.
    """
    entry = registration(config.method)
    known = {field.name: field.type for field in dataclasses.fields(entry.options)}
    for name, value in config.method_kwargs.items():
        if name not in known:
            raise ConfigError(
                f"method {config.method!r} has no option {name!r}.{did_you_mean(name, known)} "
                f"Its options: {', '.join(known) or 'none'}."
            )
        if known[name] == "float":  # the annotation, which is not evaluated
            check_finite(f"{name} of {config.method}", value)
        elif known[name] == "str" and not isinstance(value, str):
            raise ConfigError(f"{name} of {config.method} must be a string, got {value!r}.")
    method = entry.build(config, entry.options(**config.method_kwargs))
    assert isinstance(method, Method)
    if config.zo_lr == "auto" and not method.can_measure_lr:
        able = [name for name in method_names() if build_method(ZOConfig(name)).can_measure_lr]
        raise ConfigError(
            f"zo_lr='auto' does not go with method {config.method!r}, whose steps are not along an estimate at which "
            f"the loss could be measured by moving weights. Give a learning rate, or use one of: {', '.join(able)}."
        )
    return method


# Most examples a step, where each has a direction and the user does not say.
_MAX_EXAMPLES = 64


def with_defaults(
    config: ZOConfig,
    *,
    zo_eps: float,
    num_queries: int,
    distribution: Distribution,
    per_example: bool = False,
    **changes: Any,
) -> ZOConfig:
    """Fill in a method's published defaults where the user left them open.

    Args:
        config: What the user said.
        zo_eps: Default perturbation scale.
        num_queries: Default number of directions.
        distribution: Default distribution.
        per_example: Whether the method can give each example a direction.
        **changes: Other fields, which the method decides.

    Raises:
        ConfigError: If each example is to have a direction, and the method cannot do that.
    """
    if config.shared_vector == "example":
        if not per_example:
            raise ConfigError(
                f"{config.method} has its directions in common for the whole batch; shared_vector='example' goes with "
                "methods that average MeZO's estimate, such as mezo, momentum, adam, sign and grzo."
            )
        num_queries = _MAX_EXAMPLES
    return dataclasses.replace(
        config,
        zo_eps=zo_eps if config.zo_eps is None else config.zo_eps,
        num_queries=num_queries if config.num_queries is None else config.num_queries,
        distribution=distribution if config.distribution is None else config.distribution,
        **changes,
    )


def mezo_with(config: ZOConfig, rule: Rule | None = None, of_examples: Update | None = None) -> Method:
    """Build MeZO's estimate, averaged, with a rule.

    Args:
        config: A configuration without open choices.
        rule: Plain descent by default.
        of_examples: Update for examples' slopes, each along a direction of its own; by default, their sum.
    """
    assert config.num_queries is not None and config.zo_eps is not None
    dense, rule = dense_directions(config), Sgd() if rule is None else rule
    if config.shared_vector == "example":
        estimator, update = PerExample(config.num_queries, config.zo_eps), of_examples or Sum()
        return Method(FlipoutDirections(dense), estimator, update, config, rule, "per_example")
    return Method(dense, TwoSided(config.num_queries, config.zo_eps), Average(), config, rule)


def dense_directions(config: ZOConfig) -> DenseDirections:
    """Build dense directions from a configuration without open choices.

    Raises:
        ConfigError: If the distribution is unknown.
    """
    return DenseDirections(run_key(config.seed), check_distribution(config.distribution), config.window)
