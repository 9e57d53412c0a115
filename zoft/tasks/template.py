"""Templates: text with a row's columns in braces."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

from zoft.errors import ConfigError

__all__ = ["MASK", "Parts", "fill", "fill_parts", "named_columns"]

MASK = "[MASK]"  # stands in templates for whatever token the model's tokenizer masks with

Parts = list[tuple[str | None, str]]
"""A filled template in pieces ``(column, text)``; ``column`` is None for the template's own text."""


def named_columns(template: str, name: str = "template") -> tuple[str, ...]:
    """Return the columns that a template names, in order of first use.

    Args:
        template: The template. Literal braces are doubled.
        name: What messages call it.

    Raises:
        ConfigError: The braces do not match, or hold something else than a name.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"{name} {template!r}: {error}; write literal braces twice") from None
    fields = [(column, spec, conversion) for _, column, spec, conversion in parsed if column is not None]
    for column, spec, conversion in fields:
        if not column or spec or conversion:
            raise ConfigError(f"{name} {template!r}: expected {{column}}, got an empty name or a format")
    return tuple(dict.fromkeys(column for column, _, _ in fields))


def fill_parts(template: str, row: Mapping[str, Any]) -> Parts:
    """Return the template filled with a row's values, in pieces."""
    parts: Parts = []
    for literal, column, _, _ in string.Formatter().parse(template):
        parts.append((None, literal))
        if column is not None:
            parts.append((column, str(row[column])))
    return parts


def fill(template: str, row: Mapping[str, Any]) -> str:
    """Return the template filled with a row's values."""
    return "".join(text for _, text in fill_parts(template, row))
