"""Rows without text, and rows with more of it than the model is given."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from zoft.tasks.hygiene.items import ROWS_OF, Item, plural
from zoft.tasks.hygiene.report import Finding, Lengths, SplitName, TokenLengths

__all__ = ["cut_rows", "empty_rows", "lengths_of"]


def lengths_of(values: Sequence[int]) -> Lengths:
    """Return the median and the largest."""
    return Lengths(float(median(values)), max(values))


def empty_rows(split: SplitName, items: Sequence[Item]) -> list[Finding]:
    """Find rows without text: of their prompts, only the template is there."""
    empty = [(item.place,) for item in items if not item.text]
    if not empty:
        return []
    have = "has" if len(empty) == 1 else "have"
    return [Finding.about("empty", "grave", f"{plural(len(empty), ROWS_OF[split])} {have} no text", empty)]


def cut_rows(split: SplitName, items: Sequence[Item], tokens: TokenLengths) -> list[Finding]:
    """Find rows that lose some of their text; the longest come first."""
    ranked = sorted(zip(tokens.full, items, strict=True), key=lambda pair: -pair[0])
    cut = [(item.place,) for length, item in ranked if length > tokens.limit]
    if not cut:
        return []
    share = len(cut) / len(items)
    are = "is" if len(cut) == 1 else "are"
    message = (
        f"{plural(len(cut), ROWS_OF[split])} ({share:.1%}) {are} cut to {tokens.limit:,} tokens, the longest first"
    )
    return [Finding.about("cut", "note", message, cut)]
