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
    empty = [(item.place,) for item in items if item.is_empty]
    if not empty:
        return []
    have = "has" if len(empty) == 1 else "have"
    return [Finding.about("empty", "grave", f"{plural(len(empty), ROWS_OF[split])} {have} no text", sorted(empty))]


def cut_rows(split: SplitName, items: Sequence[Item], tokens: TokenLengths) -> list[Finding]:
    """Find rows that are longer than the model is given; the longest come first."""
    ranked = sorted(zip(tokens.full, tokens.kept, items, strict=True), key=lambda row: -row[0])
    cut = [(item.place,) for full, kept, item in ranked if full > kept]
    if not cut:
        return []
    lose = "loses" if len(cut) == 1 else "lose"
    rows = f"{plural(len(cut), ROWS_OF[split])} ({len(cut) / len(items):.1%})"
    return [Finding.about("cut", "note", f"{rows} {lose} some of their text, the longest first", cut)]
