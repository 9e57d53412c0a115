"""What is wrong with a run's rows before it begins: repeated, contradictory, empty, one-sided or cut ones.

``inspect_data`` is a pure function of the rows; what it finds is shown (`terminal`) and judged
(`verdict`) elsewhere. Rows are named by where they stand in the user's files.
"""

from zoft.tasks.hygiene.inspection import inspect_data
from zoft.tasks.hygiene.items import plural
from zoft.tasks.hygiene.report import DataReport, Finding, SplitName, SplitSummary, TokenLengths
from zoft.tasks.hygiene.terminal import as_text, cells, sentence
from zoft.tasks.hygiene.verdict import judge

__all__ = [
    "DataReport",
    "Finding",
    "SplitName",
    "SplitSummary",
    "TokenLengths",
    "as_text",
    "cells",
    "inspect_data",
    "judge",
    "plural",
    "sentence",
]
