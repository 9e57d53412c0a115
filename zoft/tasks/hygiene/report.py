"""What an inspection of a run's rows says: figures of each split, and findings that name rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from zoft.tasks.places import Place

__all__ = ["DataReport", "Finding", "Severity", "SplitName", "SplitSummary", "TokenLengths"]

SplitName = Literal["train", "dev", "evaluation"]

Severity = Literal["grave", "warning", "note"]
"""What spoils scores or training, and strict runs refuse; what may be meant so; what is good to know."""

KEPT = 100  # groups of rows that a finding names; its count is that of all


@dataclass(frozen=True)
class TokenLengths:
    """How long a split's prompts are.

    Attributes:
        full: The tokens of each row's prompt before any are cut.
        kept: Those that are left.
    """

    full: Sequence[int]
    kept: Sequence[int]

    @property
    def cut(self) -> int:
        """How many rows lose some."""
        return sum(full > kept for full, kept in zip(self.full, self.kept, strict=True))


@dataclass(frozen=True)
class Lengths:
    """The median and the largest of some lengths."""

    median: float
    longest: int


@dataclass(frozen=True)
class SplitSummary:
    """One split in figures.

    Attributes:
        name: Which split.
        rows: How many rows it has.
        classes: How many of them have each label; None where rows have none.
        words: Lengths in words, as whitespace separates them.
        tokens: Lengths in tokens before any are cut, if they are known.
        cut: How many rows lose some tokens, if that is known.
    """

    name: SplitName
    rows: int
    classes: dict[str, int] | None
    words: Lengths
    tokens: Lengths | None = None
    cut: int | None = None


@dataclass(frozen=True)
class Finding:
    """One kind of trouble.

    Attributes:
        kind: A short name for programs.
        severity: What it means to a run.
        message: What it is, with its count, for people.
        count: How often it occurs.
        rows: Where: one place each, or for repetitions both places; `KEPT` at most.
    """

    kind: str
    severity: Severity
    message: str
    count: int
    rows: tuple[tuple[Place, ...], ...] = ()

    @classmethod
    def about(cls, kind: str, severity: Severity, message: str, rows: Sequence[tuple[Place, ...]]) -> Finding:
        """Make a finding that names its rows, in the order that is given."""
        return cls(kind, severity, message, len(rows), tuple(rows[:KEPT]))


@dataclass(frozen=True)
class DataReport:
    """All that was found, the gravest first."""

    splits: tuple[SplitSummary, ...]
    findings: tuple[Finding, ...]

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> DataReport:
        """Return the report of which this is ``dataclasses.asdict``, or what JSON has made of that.

        Raises:
            KeyError, TypeError: It is of nothing of the kind.
        """
        splits = []
        for split in content["splits"]:
            tokens = None if split["tokens"] is None else Lengths(**split["tokens"])
            splits.append(SplitSummary(**{**split, "words": Lengths(**split["words"]), "tokens": tokens}))
        findings = []
        for finding in content["findings"]:
            rows = tuple(tuple(Place(**place) for place in places) for places in finding["rows"])
            findings.append(Finding(**{**finding, "rows": rows}))
        return cls(tuple(splits), tuple(findings))

    def of(self, *severities: Severity) -> tuple[Finding, ...]:
        """Return the findings of some severities."""
        return tuple(finding for finding in self.findings if finding.severity in severities)
