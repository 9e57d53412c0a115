"""A report for the terminal: a line for each split, and one for each thing that is good to know."""

from __future__ import annotations

from collections.abc import Sequence

from zoft.tasks.hygiene.items import NAMES
from zoft.tasks.hygiene.report import DataReport, Finding, Lengths, SplitSummary
from zoft.tasks.places import Place

__all__ = ["as_text", "cells", "sentence"]

SHOWN = 5  # rows that a line names

FEW = 4  # classes that are listed one by one


def as_text(report: DataReport) -> str:
    """Return the splits' figures, aligned, and the notes; what is worse is for `zoft.tasks.hygiene.judge` to say."""
    table = [cells(split) for split in report.splits]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([*lines, *map(sentence, report.of("note"))])


def sentence(finding: Finding) -> str:
    """Return a finding's message and where the first of its rows stand."""
    if not finding.rows:
        return finding.message
    more = finding.count - min(SHOWN, len(finding.rows))
    return f"{finding.message}: {_located(finding.rows[:SHOWN])}{f' and {more:,} more' if more > 0 else ''}"


def _located(rows: Sequence[tuple[Place, ...]]) -> str:
    """Name each file once if that is clear, as in ``a.csv, lines 3 = 7, 4 = 9``."""
    columns = {tuple((place.source, place.unit) for place in places) for places in rows}
    units = {place.unit for places in rows for place in places}
    if len(columns) == 1 and len(units) == 1:
        sources = dict.fromkeys(place.source for place in rows[0])
        numbers = ", ".join(" = ".join(str(place.number) for place in places) for places in rows)
        s = "" if len(rows) == len(rows[0]) == 1 else "s"
        return f"{' = '.join(sources)}, {units.pop()}{s} {numbers}"
    return "; ".join(" = ".join(map(str, places)) for places in rows)


def cells(split: SplitSummary) -> list[str]:
    """Return a split's name, labels, words, tokens, and how much of it is cut, in words."""
    said = [NAMES[split.name], _balance(split), _lengths(split.words, "words")]
    if split.tokens is not None and split.cut is not None:
        said += [_lengths(split.tokens, "tokens"), f"{split.cut / split.rows:.1%} cut" if split.cut else "none cut"]
    else:
        said += ["", ""]
    return said


def _balance(split: SplitSummary) -> str:
    if split.classes is None:
        return ""
    shares = {label: count / split.rows for label, count in split.classes.items()}
    if len(shares) <= FEW:
        return ", ".join(f"{label}: {share:.1%}" for label, share in shares.items())
    return f"{len(shares)} classes of {min(shares.values()):.1%} to {max(shares.values()):.1%}"


def _lengths(lengths: Lengths, unit: str) -> str:
    return f"{unit}: {lengths.median:,.0f} (median), {lengths.longest:,} (longest)"
