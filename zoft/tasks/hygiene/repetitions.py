"""Rows that say the same: across splits, within one, with one label or with several."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from zoft.tasks.hygiene.items import ROWS_OF, Item, plural
from zoft.tasks.hygiene.near import Text, near_pairs
from zoft.tasks.hygiene.report import Finding, SplitName
from zoft.tasks.places import Place

__all__ = ["by_text", "conflicts", "near_repetitions", "repetitions"]

Pair = tuple[Place, Place]
"""A row, and the row that it repeats."""

Pairs = dict[tuple[SplitName, SplitName], list[Pair]]
"""By the splits of the two rows; that of the repeated row is the same, or held out more."""

DISTANCE: dict[SplitName, int] = {name: distance for distance, name in enumerate(ROWS_OF)}  # from training


def by_text(items: Sequence[Item]) -> dict[Text, list[Item]]:
    """Group items by their text, but for those that have none."""
    groups: dict[Text, list[Item]] = defaultdict(list)
    for item in items:
        if not item.is_empty:
            groups[item.text].append(item)
    return groups


def repetitions(
    groups: Mapping[Text, Sequence[Item]], left_out: Mapping[SplitName, Sequence[tuple[Item, Item]]]
) -> list[Finding]:
    """Find rows whose text occurs in another split too, or earlier in their own.

    Args:
        groups: What `by_text` returns.
        left_out: Rows that were to be trained on and are not, each with the row of this split that has its text.
    """
    found = []
    for split, twins in left_out.items():
        if twins:
            pairs = [(item.place, twin.place) for item, twin in twins]
            message = f"{_repeat(pairs, 'train', split)} (left out of training)"
            found.append(Finding.about("leak", "grave", message, sorted(pairs)))
    repeated: Pairs = defaultdict(list)
    for group in groups.values():
        firsts = {item.split: item for item in reversed(group)}
        for item in group:
            for split, first in firsts.items():
                if first is not item and DISTANCE[split] >= DISTANCE[item.split]:
                    repeated[item.split, split].append((item.place, first.place))
    for (split, other), pairs in repeated.items():
        message = _repeat(pairs, split, other)
        if split == other:
            found.append(Finding.about("duplicate", "note", message, sorted(pairs)))
        else:
            found.append(Finding.about("leak", "grave", message, sorted(pairs)))
    return found


def near_repetitions(groups: Mapping[Text, Sequence[Item]]) -> list[Finding]:
    """Find texts that are nearly those of another split, or of an earlier row of their own.

    Rows that are held out come first: where the search ends early, it has compared a part of the training rows with
    all of them.
    """
    firsts = [max(group, key=lambda item: DISTANCE[item.split]) for group in groups.values()]
    firsts.sort(key=lambda item: -DISTANCE[item.split])
    found = near_pairs([item.text for item in firsts], [DISTANCE[item.split] for item in firsts])
    repeated: Pairs = defaultdict(list)
    for earlier, later in found.pairs:
        item, other = firsts[later], firsts[earlier]
        repeated[item.split, other.split].append((item.place, other.place))
    findings = []
    for (split, other_split), pairs in repeated.items():
        message = _repeat(pairs, split, other_split, nearly=True)
        if split == other_split:
            findings.append(Finding.about("near-duplicate", "note", message, sorted(pairs)))
        else:
            findings.append(Finding.about("near-leak", "grave", message, sorted(pairs)))
    if found.compared < len(firsts):
        message = f"near duplicates were looked for among {found.compared:,} of {len(firsts):,} different texts only"
        findings.append(Finding("not-compared", "note", message, count=len(firsts) - found.compared))
    return findings


def conflicts(groups: Mapping[Text, Sequence[Item]]) -> list[Finding]:
    """Find texts that have one label in one row and another in another."""
    pairs: list[Pair] = []
    for first, *rest in groups.values():
        other = next((item for item in rest if item.label != first.label), None)
        if other is not None:
            pairs.append((first.place, other.place))
    if not pairs:
        return []
    have = "has" if len(pairs) == 1 else "have"
    return [Finding.about("conflict", "grave", f"{plural(len(pairs), 'text')} {have} different labels", sorted(pairs))]


def _repeat(pairs: Sequence[Pair], split: SplitName, other: SplitName, *, nearly: bool = False) -> str:
    verb = f"{'nearly ' if nearly else ''}repeat{'s' if len(pairs) == 1 else ''}"
    object_ = "an earlier one" if split == other else f"a {ROWS_OF[other]}"
    return f"{plural(len(pairs), ROWS_OF[split])} {verb} {object_}"
