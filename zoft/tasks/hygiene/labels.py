"""Labels that teach little: of one class only, nearly so, or of none that is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from zoft.tasks.hygiene.items import ROWS_OF, plural
from zoft.tasks.hygiene.report import Finding, SplitName

__all__ = ["one_sided", "untrained"]

LOPSIDED = 0.95  # the share of one class above which always answering it is hard to beat


def one_sided(classes: Mapping[SplitName, Counter[str]]) -> list[Finding]:
    """Find splits of which all rows, or nearly all, have one label."""
    found = []
    for split, counts in classes.items():
        total = counts.total()
        (label, count), *others = counts.most_common()
        if not others:
            if total > 1:
                message = f"all {plural(total, ROWS_OF[split])} have the label {label}"
                found.append(Finding("constant-label", "warning", message, total))
        elif count > LOPSIDED * total:
            message = f"{count / total:.1%} of the {plural(total, ROWS_OF[split])} have the label {label}"
            found.append(Finding("lopsided-labels", "warning", message, count))
    return found


def untrained(classes: Mapping[SplitName, Counter[str]], known: Sequence[str]) -> list[Finding]:
    """Find labels that no training row has.

    Args:
        classes: How many rows of each split have each label.
        known: The labels that the task tells apart.
    """
    trained = classes["train"]
    absent = [label for label in known if label not in trained]
    if not absent:
        return []
    held_out = sum(counts[label] for counts in classes.values() for label in absent)
    message = f"no training row has the label {', '.join(absent)}"
    if held_out:
        message += f", which {plural(held_out, 'other row')} {'has' if held_out == 1 else 'have'}"
    return [Finding("untrained-label", "warning", message, len(absent))]
