"""From a run's rows to what there is to say about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

from zoft.tasks.hygiene.items import Item
from zoft.tasks.hygiene.labels import one_sided, untrained
from zoft.tasks.hygiene.lengths import cut_rows, empty_rows, lengths_of
from zoft.tasks.hygiene.repetitions import by_text, conflicts, near_repetitions, repetitions
from zoft.tasks.hygiene.report import DataReport, Severity, SplitName, SplitSummary, TokenLengths
from zoft.tasks.hygiene.wording import normalised
from zoft.tasks.places import Row

__all__ = ["inspect_data"]

ORDER: tuple[Severity, ...] = ("grave", "warning", "note")


def inspect_data(
    splits: Mapping[SplitName, Sequence[Row]],
    text_of: Callable[[Row], Sequence[str]],
    class_of: Callable[[Row], str | None],
    *,
    labels: Sequence[str] = (),
    left_out: Mapping[SplitName, Sequence[tuple[Row, Row]]] | None = None,
    tokens: Mapping[SplitName, TokenLengths] | None = None,
) -> DataReport:
    """Look for what makes scores say too much, or training learn too little.

    Nearly all of the time that it takes goes into near duplicates (docs/data.md).

    Args:
        splits: The rows of a run; ``train`` is there, other splits may be missing or empty.
        text_of: What a row says, column by column: its own text, without that of the template.
        class_of: A row's label; None where rows have none.
        labels: The labels that the task tells apart.
        left_out: Rows that are not trained on because a row of this split, the second of each pair, has their text.
        tokens: Lengths of the prompts in tokens, in the order of ``splits``, for those splits where they are known.
    """
    tokens = tokens or {}

    def item(split: SplitName, row: Row) -> Item:
        return Item(split, row.place, tuple(map(normalised, text_of(row))), class_of(row))

    items = {name: [item(name, row) for row in rows] for name, rows in splits.items() if rows}
    twins = {
        name: [(item("train", row), item(name, twin)) for row, twin in pairs]
        for name, pairs in (left_out or {}).items()
    }
    classes: dict[SplitName, Counter[str]] = {
        name: Counter(item.label for item in of_split if item.label is not None) for name, of_split in items.items()
    }
    used = list(chain.from_iterable(items.values()))
    unused = list(chain.from_iterable(chain.from_iterable(twins.values())))
    groups = by_text(used)
    found = [*repetitions(groups, twins), *near_repetitions(groups), *conflicts(by_text([*used, *unused]))]
    for name, of_split in items.items():
        found += empty_rows(name, of_split)
        if name in tokens:
            found += cut_rows(name, of_split, tokens[name])
    if any(classes.values()):
        found += [*one_sided(classes), *untrained(classes, labels)]
    return DataReport(
        splits=tuple(_summary(name, of_split, classes[name], tokens.get(name)) for name, of_split in items.items()),
        findings=tuple(sorted(found, key=lambda finding: ORDER.index(finding.severity))),
    )


def _summary(
    name: SplitName, items: Sequence[Item], classes: Counter[str], tokens: TokenLengths | None
) -> SplitSummary:
    return SplitSummary(
        name=name,
        rows=len(items),
        classes=dict(sorted(classes.items())) or None,
        words=lengths_of([len(" ".join(item.text).split()) for item in items]),
        tokens=None if tokens is None else lengths_of(tokens.full),
        cut=None if tokens is None else tokens.cut,
    )
