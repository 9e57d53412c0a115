"""Which parameters a run trains, and the number under which each one's noise is addressed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from zoft.errors import ConfigError, did_you_mean
from zoft.storage import Slot, Stored, named_slots, plain_parts


@dataclass(frozen=True)
class Trainable:
    """One trained parameter.

    Attributes:
        number: Its place in the run's table; the noise is addressed by it.
        name: Its first name in ``model.named_parameters()``.
        slot: Where it is. Tied weights are one parameter, hence one z.
    """

    number: int
    name: str
    slot: Slot

    @property
    def parameter(self) -> nn.Parameter:
        """What the module holds now: the parameter itself, or what stands for it (see :mod:`zoft.storage`)."""
        return self.slot.parameter

    def stored(self) -> Stored:
        """The numbers that this process holds; see :meth:`zoft.storage.Slot.stored`."""
        return self.slot.stored()


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
    aliases_of: dict[object, list[str]] = {}
    slots: dict[object, Slot] = {}
    for name, slot in named_slots(model).items():
        aliases_of.setdefault(slot.identity(), []).append(name)
        slots.setdefault(slot.identity(), slot)
    everything = [name for aliases in aliases_of.values() for name in aliases]
    for pattern in (*include, *exclude):
        if not any(fnmatchcase(name, pattern) for name in everything):
            raise ConfigError(
                f"the pattern {pattern!r} matches no parameter.{did_you_mean(pattern, everything)} "
                f"Names look like {everything[0]!r}; patterns are shell-style, such as '*norm*'."
            )

    def matches(aliases: Sequence[str], patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, pattern) for name in aliases for pattern in patterns)

    chosen = [
        (aliases[0], slots[key])
        for key, aliases in aliases_of.items()
        if slots[key].parameter.requires_grad
        and (not include or matches(aliases, include))
        and not matches(aliases, exclude)
    ]
    if not chosen:
        raise ConfigError(
            f"no parameter is left to train: include={list(include)}, exclude={list(exclude)}, "
            f"{sum(s.parameter.requires_grad for s in slots.values())} of {len(slots)} require a gradient."
        )
    for name, slot in chosen:
        dtype = slot.parameter.dtype
        if dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            raise ConfigError(
                f"{name} has dtype {dtype}; zoft trains float32, bfloat16, float16 and float64. "
                f"Exclude it (exclude=['{name}']) or train adapters over it."
            )
        if not all(part.is_floating_point() for part in plain_parts(slot.parameter)):
            raise ConfigError(f"{name} is quantised, so it cannot be trained. Exclude it or train adapters over it.")
    return tuple(Trainable(number, name, slot) for number, (name, slot) in enumerate(chosen))
