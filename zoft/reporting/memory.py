"""Table of ``zoft-bench memory``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoft.markdown import table

MIB = 2**20
PARTS = ("weights", "placement", "gradients", "state", "activations", "total")


def markdown(results: Sequence[Mapping[str, Any]], inference: int) -> str:
    """Return the table, in MiB.

    Args:
        results: What ``memory.json`` holds of each way of training.
        inference: The peak of plain inference in bytes.
    """
    limited = any(one["fits"] is not None for one in results)
    measured = any(one["measured"] is not None for one in results)
    header = ["MiB", "trained", *PARTS, "/ inference", "largest tensor"]
    header += ["fits", "largest batch"] if limited else []
    header += ["measured", "/ predicted"] if measured else []
    rows = [header]
    for one in results:
        row = [one["name"], f"{one['trained']:,}", *(f"{one[part] / MIB:.0f}" for part in PARTS)]
        row += [f"{one['total'] / inference:.3f}", f"{one['largest'] / MIB:.0f}"]
        if limited:
            row += ["yes" if one["fits"] else "no", f"{one['largest_batch']:,}"]
        if measured:
            peak = one["measured"]
            row += ["-", "-"] if peak is None else [f"{peak / MIB:.0f}", f"{peak / one['total']:.3f}"]
        rows.append(row)
    return table(rows)
