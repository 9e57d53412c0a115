"""Which parameters a run trains, and the number under which each one's noise is addressed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from zoft.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Trainable:
    """One trained parameter.

    Attributes:
        number: Its place in the run's table; the noise is addressed by it.
        name: Its first name in ``model.named_parameters()``.
        parameter: The parameter itself. Tied weights are one parameter, hence one z.
    """

    number: int
    name: str
    parameter: nn.Parameter


def select(model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> tuple[Trainable, ...]:
    """Return the parameters to train, in the model's own order.

    A parameter is trained if it requires a gradient, matches some ``include`` pattern (or there is none)
    and no ``exclude`` pattern. A tied parameter matches by any of its names.

    Args:
        model: Any module.
        include: ``fnmatch`` patterns over parameter names, e.g. ``"*norm*"``.
        exclude: Likewise; wins over ``include``.

    Raises:
        ConfigError: If a pattern matches nothing or nothing is left to train.
    """
    names: dict[int, list[str]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
        parameters[id(parameter)] = parameter
    everything = [name for aliases in names.values() for name in aliases]
    for pattern in (*include, *exclude):
        if not any(fnmatchcase(name, pattern) for name in everything):
            raise ConfigError(
                f"the pattern {pattern!r} matches no parameter.{did_you_mean(pattern, everything)} "
                f"Names look like {everything[0]!r}; patterns are shell-style, such as '*norm*'."
            )

    def matches(aliases: Sequence[str], patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, pattern) for name in aliases for pattern in patterns)

    chosen = [
        (aliases[0], parameters[key])
        for key, aliases in names.items()
        if parameters[key].requires_grad
        and (not include or matches(aliases, include))
        and not matches(aliases, exclude)
    ]
    if not chosen:
        raise ConfigError(
            f"no parameter is left to train: include={list(include)}, exclude={list(exclude)}, "
            f"{sum(p.requires_grad for p in parameters.values())} of {len(parameters)} require a gradient."
        )
    for name, parameter in chosen:
        if parameter.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            raise ConfigError(
                f"{name} has dtype {parameter.dtype}; zoft trains float32, bfloat16, float16 and float64. "
                f"Exclude it (exclude=['{name}']) or train adapters over it."
            )
    return tuple(Trainable(number, name, parameter) for number, (name, parameter) in enumerate(chosen))
