"""From a recipe's mappings to frozen dataclasses: nothing unknown, missing or of another type is let through."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from zoft.errors import ConfigError, did_you_mean

T = TypeVar("T")


def fill(options: type[T], values: object, where: str) -> T:
    """Make a dataclass of a mapping; lists become tuples, and integers floats where a float is expected.

    Args:
        options: The dataclass.
        values: What the recipe says; None counts as an empty mapping.
        where: What the mapping is called in messages.

    Raises:
        ConfigError: If a key is unknown or missing, or a value has another type or is out of range.
    """
    given = {} if values is None else values
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: expected a mapping, got {given!r}.")
    hints = typing.get_type_hints(options)
    known = {field.name: field for field in fields(typing.cast("Any", options)) if field.init}
    for name in given:
        if name not in known:
            raise ConfigError(f"{where}: unknown key {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    for name, field in known.items():
        if name not in given and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{where}: the key {name!r} is missing.")
    converted = {name: _converted(value, hints[name], f"{where}: {name}") for name, value in given.items()}
    try:
        return options(**converted)
    except ConfigError as error:  # which names the option, not where it is
        raise ConfigError(f"{where}: {error}") from None


def _converted(value: object, hint: Any, where: str) -> Any:
    accepted = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for kind in accepted:
        origin = typing.get_origin(kind) or kind
        if origin is tuple and isinstance(value, (list, tuple)):
            return tuple(_converted(item, typing.get_args(kind)[0], where) for item in value)
        if origin is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, origin) and not (isinstance(value, bool) and origin is not bool):
            return value
    names = " or ".join(_name(kind) for kind in accepted)
    raise ConfigError(f"{where}: expected {names}, got {value!r}.")


def _name(kind: Any) -> str:
    origin = typing.get_origin(kind) or kind
    if origin is tuple:
        return f"a list of {_name(typing.get_args(kind)[0])}"
    names = {int: "an integer", float: "a number", str: "text", bool: "true or false", type(None): "nothing"}
    return names.get(origin, "a mapping")
