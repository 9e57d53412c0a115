"""What a method is to the engine: directions, an estimator and an update, composed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from zoft.directions import DenseDirections, Directions
from zoft.errors import ConfigError, did_you_mean
from zoft.estimators import Estimator
from zoft.noise import Distribution, check_distribution, run_key
from zoft.registry import method_names, registration
from zoft.types import ZOConfig
from zoft.updates import Rule, Sgd, Update


@dataclass(frozen=True)
class Method:
    """A zeroth-order method, with every choice made.

    Attributes:
        directions: Where z comes from.
        estimator: Which points are evaluated and which scalars are kept.
        update: How the scalars become a gradient.
        config: The configuration with the method's defaults filled in.
        rule: How the gradient is written into the weights.
    """

    directions: Directions
    estimator: Estimator
    update: Update
    config: ZOConfig
    rule: Rule = field(default_factory=Sgd)


def build_method(config: ZOConfig) -> Method:
    """Build the method that the configuration names.

    Raises:
        ConfigError: If the method or one of its options is unknown or out of range, or does not go with ``zo_lr``.
    """
    entry = registration(config.method)
    known = [field.name for field in dataclasses.fields(entry.options)]
    for name in config.method_kwargs:
        if name not in known:
            raise ConfigError(
                f"method {config.method!r} has no option {name!r}.{did_you_mean(name, known)} "
                f"Its options: {', '.join(known) or 'none'}."
            )
    method = entry.build(config, entry.options(**config.method_kwargs))
    assert isinstance(method, Method)
    if config.zo_lr == "auto" and not method.rule.steps_along_gradient:
        able = [name for name in method_names() if build_method(ZOConfig(name)).rule.steps_along_gradient]
        raise ConfigError(
            f"zo_lr='auto' does not go with method {config.method!r}, whose steps are not along the gradient estimate, "
            f"where the loss could be measured. Give a learning rate, or use one of: {', '.join(able)}."
        )
    return method


def with_defaults(
    config: ZOConfig, *, zo_eps: float, num_queries: int, distribution: Distribution, **changes: Any
) -> ZOConfig:
    """Fill in a method's published defaults where the user left them open."""
    return dataclasses.replace(
        config,
        zo_eps=zo_eps if config.zo_eps is None else config.zo_eps,
        num_queries=num_queries if config.num_queries is None else config.num_queries,
        distribution=distribution if config.distribution is None else config.distribution,
        **changes,
    )


def check_count(name: str, value: object) -> None:
    """Raise ConfigError unless a value is an integer >= 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} must be an integer >= 1, got {value!r}.")


def dense_directions(config: ZOConfig) -> DenseDirections:
    """Build dense directions from a configuration without open choices.

    Raises:
        ConfigError: If the distribution is unknown.
    """
    return DenseDirections(run_key(config.seed), check_distribution(config.distribution))
