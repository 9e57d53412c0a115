"""The methods by name. A method registers itself where it is defined; nothing else lists it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zoft.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Registration:
    """A method's entry.

    Attributes:
        name: Its public name.
        options: Frozen dataclass of the options that ``method_kwargs`` may set.
        build: ``build(config, options) -> Method``.
    """

    name: str
    options: type[Any]
    build: Callable[[Any, Any], Any]


_METHODS: dict[str, Registration] = {}


def register_method(name: str, options: type[Any]) -> Callable[[Callable[[Any, Any], Any]], Callable[[Any, Any], Any]]:
    """Register the decorated builder under ``name``."""

    def decorate(build: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        if name in _METHODS:
            raise ConfigError(f"method {name!r} is registered twice.")
        _METHODS[name] = Registration(name, options, build)
        return build

    return decorate


def _load() -> None:
    # By name, so that this floor does not import the floor above it when it is itself imported.
    package = importlib.import_module("zoft.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"zoft.methods.{module.name}")


def method_names() -> tuple[str, ...]:
    """Return the names of all methods, sorted."""
    _load()
    return tuple(sorted(_METHODS))


def registration(name: str) -> Registration:
    """Return a method's entry.

    Raises:
        ConfigError: If no method has this name.
    """
    _load()
    if name not in _METHODS:
        raise ConfigError(
            f"method {name!r} is unknown.{did_you_mean(name, _METHODS)} Known: {', '.join(sorted(_METHODS))}."
        )
    return _METHODS[name]
