"""A row as an inspection sees it."""

from __future__ import annotations

from dataclasses import dataclass

from zoft.tasks.hygiene.report import SplitName
from zoft.tasks.places import Place

__all__ = ["NAMES", "ROWS_OF", "Item", "plural"]

NAMES: dict[SplitName, str] = {"train": "training", "dev": "development", "evaluation": "held-out"}

ROWS_OF: dict[SplitName, str] = {split: f"{name} row" for split, name in NAMES.items()}


@dataclass(frozen=True, slots=True)
class Item:
    """A row's split, its place, its normalised text in its columns, and its label."""

    split: SplitName
    place: Place
    text: tuple[str, ...]
    label: str | None

    @property
    def is_empty(self) -> bool:
        """Whether the row says nothing."""
        return not any(self.text)


def plural(count: int, what: str) -> str:
    """Return ``1 row`` or ``2,000 rows``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
