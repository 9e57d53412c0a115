"""Where two runs part: what their logs say they started from, and the first step at which they differ."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoft.log_file import ReplayLog
from zoft.types import StepRecord

_FIELDS = ("scalars", "lrs", "loss", "skipped", "probe")


@dataclass(frozen=True)
class LogDiff:
    """How two replay logs differ; each text names the first log's side before the second's.

    Attributes:
        settings: One text for each setting that differs: configuration, parameter groups, weight decays.
        base: The first tensor, by the model's order, of which the base weights differ; "" if none does.
        common: Number of steps, from the first on, that are the same in both.
        step: How step ``common`` differs; "" if one log ends there.
        lengths: Number of steps in each.
    """

    settings: tuple[str, ...]
    base: str
    common: int
    step: str
    lengths: tuple[int, int]

    @property
    def identical(self) -> bool:
        """Whether both logs give the same weights, and say the same about how."""
        return not (self.settings or self.base or self.step) and self.lengths[0] == self.lengths[1]

    def lines(self) -> list[str]:
        """Say it in words, one line a difference."""
        found = [*self.settings, *([self.base] if self.base else [])]
        if self.step:
            found.append(self.step)
        elif self.lengths[0] != self.lengths[1]:
            ends, goes_on = (
                ("the first", "the second") if self.common == self.lengths[0] else ("the second", "the first")
            )
            found.append(f"{ends} ends after {self.common} steps, with which {goes_on} ({max(self.lengths)}) begins")
        else:
            found.append(f"all {self.common} steps are identical")
        return found


def diff_logs(a: ReplayLog, b: ReplayLog) -> LogDiff:
    """Compare two logs, floats bit by bit; needs no model."""
    common = 0
    for mine, theirs in zip(a.records, b.records, strict=False):
        if differing_fields(mine, theirs):
            break
        common += 1
    step = ""
    if common < min(len(a.records), len(b.records)):
        mine, theirs = a.records[common], b.records[common]
        fields = differing_fields(mine, theirs)
        step = f"step {common} differs first: " + "; ".join(
            f"{name} {getattr(mine, name)} | {getattr(theirs, name)}" for name in fields
        )
    return LogDiff(
        settings=(*_settings(a.header, b.header),),
        base=_base(a.header["base"], b.header["base"]),
        common=common,
        step=step,
        lengths=(len(a.records), len(b.records)),
    )


def differing_fields(a: StepRecord, b: StepRecord) -> list[str]:
    """Return the names of the fields that differ; a NaN equals itself, 0.0 and -0.0 differ."""
    return [name for name in _FIELDS if _bits(getattr(a, name)) != _bits(getattr(b, name))]


def _bits(value: Any) -> bytes:
    values = value if isinstance(value, tuple) else (value,)
    return struct.pack(f"<{len(values)}d", *values)


def _settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    found = [
        f"{name}: {a['config'].get(name)!r} | {b['config'].get(name)!r}"
        for name in dict.fromkeys((*a["config"], *b["config"]))
        if a["config"].get(name) != b["config"].get(name)
    ]
    for name in dict.fromkeys((*a, *b)):
        if name not in ("config", "parameters", "base") and a.get(name) != b.get(name):
            found.append(f"{name}: {a.get(name)!r} | {b.get(name)!r}")
    tables = [{row["name"]: row["group"] for row in header["parameters"]} for header in (a, b)]
    if list(tables[0].items()) != list(tables[1].items()):
        found.append("trained parameters: " + _first(tables[0], tables[1], "group"))
    return found


def _base(a: Mapping[str, str], b: Mapping[str, str]) -> str:
    return "" if a == b else "base weights: " + _first(a, b, "")


def _first(a: Mapping[str, Any], b: Mapping[str, Any], what: str) -> str:
    """Name the first entry that differs, and say how many do."""
    names = [name for name in dict.fromkeys((*a, *b)) if name not in a or name not in b or a[name] != b[name]]
    if not names:
        return "the same ones in another order"
    sides = [f"{what} {side[names[0]]}".strip() if names[0] in side else "absent" for side in (a, b)]
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"{names[0]} differs first: {sides[0]} | {sides[1]}{more}"
