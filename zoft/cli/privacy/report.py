"""``zoft-privacy report RUN ...``: what runs have spent and released, from their logs."""

from __future__ import annotations

from collections.abc import Sequence

from zoft.cli.report import main as report
from zoft.cli.report import privacy_of

PROG = "zoft-privacy report"


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``zoft-privacy report``: :mod:`zoft.cli.report` with the section on privacy alone."""
    report(argv, prog=PROG, sections=lambda runs: [privacy_of(runs)])
