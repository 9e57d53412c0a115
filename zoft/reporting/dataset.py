"""The section on data: what each run's rows were like, and what was found wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter

from zoft.markdown import plain, table
from zoft.reporting.report import Section
from zoft.reporting.runs import Run
from zoft.tasks.hygiene import DataReport, cells, sentence


def data_section(runs: Sequence[Run]) -> Section:
    """Show what the rows of runs are like, as far as it is known; of runs on the same rows, in a row, once."""
    known = [(run, run.data) for run in runs if run.data is not None]
    text = ["## Data"]
    for report, alike in groupby(known, itemgetter(1)):
        if len(runs) > 1:
            text.append(f"### {', '.join(plain(run.label) for run, _ in alike)}")
        text += _described(report)
    return Section("data", "\n\n".join(text), {"runs": {run.name: asdict(report) for run, report in known}})


def _described(report: DataReport) -> list[str]:
    rows = []
    for split in report.splits:
        name, *rest = cells(split)
        rows.append([name, f"{split.rows:,}", *map(plain, rest)])
    found = [f"- {finding.severity}: {plain(sentence(finding))}" for finding in report.findings]
    return [
        table([["rows", "count", "labels", "length", "in tokens", "cut"], *rows]),
        "\n".join(found) or "Nothing was found wrong with them.",
    ]
