"""Small changes to sentences that published prompts make, so that two of them read as one."""

from __future__ import annotations

from typing import Any

__all__ = ["as_one_sentence", "lower_first_word", "without_stop"]


def without_stop(sentence: str) -> str:
    """Return a sentence without the space and the full stop, question or exclamation mark at its end."""
    stripped = sentence.rstrip()
    return stripped[:-1].rstrip() if stripped[-1:] in (".", "?", "!") else stripped


def lower_first_word(sentence: str) -> str:
    """Return a sentence as it reads after others: its first word in lower case, unless it is "I"."""
    first, space, rest = sentence.strip().partition(" ")
    return (first if first == "I" else first.lower()) + space + rest


def as_one_sentence(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose premise and hypothesis can be joined: the one without its stop, the other in lower case.

    After LM-BFF (Gao et al. 2021, arXiv 2012.15723), which takes off the premise's last character whatever it is.
    """
    return {
        **row,
        "premise": without_stop(row["premise"]),
        "hypothesis": lower_first_word(row["hypothesis"]),
    }
