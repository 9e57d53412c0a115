"""The section of examples: what the model answered before training, and what it answers after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoft.markdown import plain, table, verbatim
from zoft.reporting.report import Section
from zoft.reporting.runs import Run

SHOWN = 12  # prompts; more make a page that nobody reads to its end


def examples_section(runs: Sequence[Run]) -> Section:
    """Show held-out prompts with the answers of each run's model."""
    described = {run.name: describe(run) for run in runs}
    text = ["## Examples"]
    if hidden := [plain(run.label) for run in runs if not run.shows_scores]:
        text.append(f"Held-out rows of {', '.join(hidden)} are private: none is shown.")
    if missing := [plain(run.label) for run in runs if run.shows_scores and not run.examples]:
        text.append(f"There is no `examples.json` for {', '.join(missing)}.")
    counted = {run.label: described[run.name]["as_expected"] for run in runs if run.examples}
    if counted:
        text.append(table(_counts(counted)))
    prompts = dict.fromkeys((row["prompt"], row["expected"]) for run in runs for row in run.examples)
    for number, (prompt, expected) in enumerate(list(prompts)[:SHOWN], start=1):
        rows = [
            [plain(run.label), *(plain(row.get(when, "")) for when in ("before", "after"))]
            for run in runs
            for row in run.examples
            if (row["prompt"], row["expected"]) == (prompt, expected)
        ]
        text += [
            f"### Example {number}",
            verbatim(prompt),
            f"Expected: {plain(expected)}",
            table([["", "before", "after"], *rows]),
        ]
    if len(prompts) > SHOWN:
        text.append(f"{len(prompts) - SHOWN} more are in `examples.json`.")
    return Section("examples", "\n\n".join(text), {"runs": described})


def describe(run: Run) -> dict[str, Any]:
    """Return a run's examples, and how many answers are word for word what was expected."""
    rows = list(run.examples)
    return {
        "as_expected": {when: _as_expected(rows, when) for when in ("before", "after")},
        "examples": [dict(row) for row in rows],
    }


def _as_expected(rows: Sequence[Mapping[str, str]], when: str) -> list[int]:
    """Return how many answers are as expected, of how many there are."""
    answered = [row for row in rows if when in row]
    return [sum(row[when].strip() == row["expected"].strip() for row in answered), len(answered)]


def _counts(counted: Mapping[str, Mapping[str, Sequence[int]]]) -> list[list[str]]:
    return [
        ["answers that are word for word as expected", *map(plain, counted)],
        *(
            [when, *(f"{right} of {count}" if count else "" for right, count in (of[when] for of in counted.values()))]
            for when in ("before", "after")
        ),
    ]
