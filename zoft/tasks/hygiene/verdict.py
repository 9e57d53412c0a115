"""What a run does about what was found."""

from __future__ import annotations

import warnings

from zoft.errors import DataError, ZoftWarning
from zoft.tasks.hygiene.report import DataReport
from zoft.tasks.hygiene.terminal import sentence

__all__ = ["judge"]


def judge(report: DataReport, *, strict: bool = False) -> None:
    """Warn, once, of all that may spoil a run.

    Args:
        report: What was found.
        strict: Whether rows that repeat across splits, contradict each other or are empty end the run.

    Raises:
        DataError: Some do, and ``strict`` is true.
    """
    grave = report.of("grave")
    if strict and grave:
        raise DataError("strict_data: " + "; ".join(map(sentence, grave)))
    if trouble := report.of("grave", "warning"):
        hint = f". --strict_data refuses {'this' if len(trouble) == 1 else f'the first {len(grave)}'}" if grave else ""
        warnings.warn("the data: " + "; ".join(map(sentence, trouble)) + hint, ZoftWarning, stacklevel=2)
