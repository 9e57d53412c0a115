"""Which methods, settings and models can be private, and why the others cannot.

What a step publishes is its scalars, noised. Whatever a method makes of published scalars (a normalisation by their
spread, moments, masks of published weights) costs nothing more. So a method qualifies if its scalars can be clipped as
one vector for each example: if they are slopes along directions that the whole batch shares.
"""

from __future__ import annotations

import dataclasses
import re

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoft.errors import ConfigError
from zoft.method import Method, build_method
from zoft.registry import method_names
from zoft.types import ZOConfig

_EXPERTS = re.compile(r"moe|mixture_?of_?experts|switchtransformers.*(mlp|router)|expert", re.IGNORECASE)


def why_not(method: Method) -> str | None:
    """Say why a method cannot be private; None if it can."""
    if method.evaluation == "per_example":
        return (
            "each example has a direction of its own, and which one depends on the others: one example more would "
            "change what all of them add"
        )
    if method.evaluation == "differentiated":
        return "it differentiates the loss of the batch as a whole, where each example's must be clipped"
    if method.estimator.kind != "slopes":
        return (
            f"its scalars are {method.estimator.kind}, not slopes alone: one clip cannot bound them all, and the "
            "largest would drown the others in its noise"
        )
    return None


def qualifying() -> list[str]:
    """Return the names of the methods that can be private, by their default settings."""
    return [name for name in method_names() if why_not(build_method(ZOConfig(name))) is None]


def private_config(config: ZOConfig) -> ZOConfig:
    """Return a run's configuration with the placement that private steps need.

    Raises:
        ConfigError: If the method or a setting cannot be private; says why, and what can.
    """
    reason = why_not(build_method(config))
    if reason is not None:
        raise ConfigError(
            f"method {config.method!r} with shared_vector={config.shared_vector!r} cannot be private: {reason}. These "
            f"can: {', '.join(qualifying())}."
        )
    if config.zo_lr is not None:
        raise ConfigError(
            "zo_lr='auto' measures losses that are not noised, and so cannot be private; give a learning rate."
        )
    if config.query_parallel_size > 1:
        raise ConfigError(
            f"query_parallel_size={config.query_parallel_size} parts an example's slopes among processes, where they "
            "must be clipped as one vector. Use query_parallel_size=1 in a private run."
        )
    if config.placement not in ("auto", "snapshot"):
        raise ConfigError(
            f"placement={config.placement!r} cannot be private: examples are evaluated one by one, for which weights "
            "are moved once and must come back exactly, and nothing may be tried out on private examples. Use "
            "placement='snapshot', or 'auto', which is that here."
        )
    return dataclasses.replace(config, placement="snapshot")


def check_model(model: nn.Module) -> None:
    """Refuse models in which examples of a batch may see each other.

    Raises:
        ConfigError: If there is a batch normalisation, or a mixture of experts, whose experts have a capacity; names
            the module.
    """
    for name, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, _BatchNorm):
            raise ConfigError(
                f"{name} is a {kind}, whose statistics are those of whole batches: one example would change what all "
                "others add. Replace it by a normalisation of single examples (GroupNorm, LayerNorm)."
            )
        if _EXPERTS.search(kind):
            raise ConfigError(
                f"{name} is a {kind}: mixtures of experts may drop an example's tokens because of those of others. Use "
                "a dense model in a private run."
            )
