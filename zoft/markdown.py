"""Markdown tables, and text that is to be read as it is."""

from __future__ import annotations

import re
from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, of which the first row is the header."""
    header, *body = rows
    lines = [header, ["---"] * len(header), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: object) -> str:
    """Return text that Markdown shows as it is, in one line; fit for a cell of a table."""
    return re.sub(r"([\\`*_\[\]<>|&~])", r"\\\1", " ".join(str(text).split()))


def verbatim(text: str, language: str = "") -> str:
    """Return a block of Markdown code that holds the text, whatever is in it."""
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
