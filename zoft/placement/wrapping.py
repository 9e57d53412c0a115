"""The modules that own trained parameters, and their forwards, exchanged for others while an estimate runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from zoft.errors import ConfigError
from zoft.parameters import Trainable
from zoft.storage import Slot, named_slots

Forward = Callable[..., Any]
Owners = dict[nn.Module, dict[Slot, Trainable]]

_CONTAINERS = (nn.ParameterList, nn.ParameterDict)


def owners_of(model: nn.Module, trainables: Sequence[Trainable]) -> tuple[Owners, dict[Slot, str]]:
    """Return what each module owns of the trained parameters, and the name of each place where one is held.

    Tied weights have several owners. Which parameter object an owner holds may differ from one forward to the next
    (offloading), so places are given, not parameters.
    """
    trained = {t.slot.identity(): t for t in trainables}
    # Containers of parameters have no forward; what they hold is read by the module around them.
    readers: dict[nn.Module, nn.Module] = {
        child: module for module in model.modules() for child in module.children() if isinstance(child, _CONTAINERS)
    }
    owners: Owners = {}
    names = {}
    for name, slot in named_slots(model).items():
        trainable = trained.get(slot.identity())
        if trainable is not None:
            owners.setdefault(readers.get(slot.module, slot.module), {})[slot] = trainable
            names[slot] = name
    return owners, names


def require_whole(trainables: Sequence[Trainable], what: str, otherwise: str) -> None:
    """Raise ConfigError if some weight is not all in its module; ``what`` needs that, ``otherwise`` says what to do."""
    for trainable in trainables:
        if trainable.slot.is_sharded or trainable.slot.keeper is not None:
            raise ConfigError(
                f"{what} needs whole weights in memory, and {trainable.name} is sharded or offloaded. {otherwise}"
            )


@contextmanager
def watched_forwards(enter: Callable[[nn.Module], None], leave: Callable[[nn.Module, Any], None]) -> Iterator[None]:
    """Watch the forwards of all modules there are, for a loss may call a wrapper around the model, or a part of it.

    Args:
        enter: Called before each, with the module.
        leave: Called after each, also after an exception, with the module and what it returned.
    """
    before = register_module_forward_pre_hook(lambda module, args: enter(module))
    after = register_module_forward_hook(lambda module, args, output: leave(module, output), always_call=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()


@contextmanager
def wrapped_forwards(modules: Sequence[nn.Module], wrap: Callable[[nn.Module, Forward], Forward]) -> Iterator[None]:
    """Exchange each module's ``forward`` for ``wrap(module, forward)``, and bring it back, also after an exception."""
    # Accelerate's hooks fetch offloaded weights before they call the forward that they have put by.
    names = ["_old_forward" if "_old_forward" in module.__dict__ else "forward" for module in modules]
    before = [module.__dict__.get(name) for module, name in zip(modules, names, strict=True)]
    try:
        for module, name in zip(modules, names, strict=True):
            module.__dict__[name] = wrap(module, getattr(module, name))
        yield
    finally:
        for module, name, forward in zip(modules, names, before, strict=True):
            if forward is None:
                module.__dict__.pop(name, None)
            else:
                module.__dict__[name] = forward
