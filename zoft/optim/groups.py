"""Parameter groups: which there are unless the user says so, and what may be said in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from zoft.errors import ConfigError
from zoft.parameters import Trainable


def default_groups(trainables: Sequence[Trainable], weight_decay: float) -> list[dict[str, Any]]:
    """Return groups such that parameters with fewer than two dimensions do not decay, as in MeZO."""
    decayed = [t.parameter for t in trainables if t.parameter.ndim >= 2]
    others = [t.parameter for t in trainables if t.parameter.ndim < 2]
    if weight_decay and decayed and others:
        return [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return [{"params": [t.parameter for t in trainables], "weight_decay": weight_decay if decayed else 0.0}]


def group_numbers(groups: Sequence[Mapping[str, Any]], trainables: Sequence[Trainable]) -> list[int]:
    """Return the number of each parameter's group.

    Raises:
        ConfigError: If the groups do not hold these parameters exactly.
    """
    group_of = {id(p): index for index, group in enumerate(groups) for p in group["params"]}
    selected = {id(t.parameter) for t in trainables}
    if set(group_of) != selected:
        raise ConfigError(
            f"param_groups hold {len(group_of)} parameters, {len(set(group_of) & selected)} of which are among "
            f"the {len(selected)} that include/exclude select; they must be the same."
        )
    return [group_of[id(t.parameter)] for t in trainables]


def check_rates(group: Mapping[str, Any]) -> None:
    """Make sure that a group's learning rate and weight decay are usable.

    Raises:
        ConfigError: If one is not.
    """
    for name in ("lr", "weight_decay"):
        if not isinstance(group[name], (int, float, torch.Tensor)) or not 0.0 <= group[name] < float("inf"):
            raise ConfigError(f"{name} must be a finite number >= 0, got {group[name]!r}.")


def check_unchanged(groups: Sequence[Mapping[str, Any]], weight_decays: Sequence[float]) -> None:
    """Make sure that groups decay as they did at the start, and that their rates are usable.

    Raises:
        ConfigError: If not.
    """
    for group, decay in zip(groups, weight_decays, strict=True):
        if group["weight_decay"] != decay:
            raise ConfigError(
                f"weight_decay of a parameter group was changed from {decay} to {group['weight_decay']} after "
                "the optimizer was made; replay needs it constant."
            )
        check_rates(group)
