"""Values that a file holds, checked against the types that are asked for."""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin

from zoft.errors import ConfigError

__all__ = ["plain_value"]

_NAMES = {str: "text", int: "a whole number", bool: "true or false", type(None): "nothing"}
_PLURALS = {str: "texts", int: "whole numbers", bool: "truth values"}


def plain_value(name: str, value: Any, hint: Any) -> Any:
    """Return a value as the type that is asked for: a list where a tuple is, anything else unchanged.

    Args:
        name: What messages call it.
        value: Text, a number, a truth value, nothing, or a list of such.
        hint: ``str``, ``int``, ``bool``, ``None``, a ``Literal``, ``tuple[X, ...]`` of such, or a union of these.

    Raises:
        ConfigError: The value is of another type.
    """
    for kind in _members(hint):
        if get_origin(kind) is tuple:
            if isinstance(value, list) and all(type(item) in _members(get_args(kind)[0]) for item in value):
                return tuple(value)
        elif get_origin(kind) is Literal:
            if value in get_args(kind):
                return value
        elif type(value) is kind:  # a truth value is an int to isinstance
            return value
    raise ConfigError(f"{name}: expected {' or '.join(map(_described, _members(hint)))}, got {value!r:.80}")


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _described(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return "a list of " + " or ".join(_PLURALS[item] for item in _members(get_args(kind)[0]))
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    return _NAMES[kind]
