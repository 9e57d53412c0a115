"""The reward functions of recipes/reward.yaml, with the signature that TRL's GRPO has."""

from __future__ import annotations

from typing import Any


def answers(completions: list[str], **columns: Any) -> list[float]:
    """1 for a completion that says something."""
    return [float(bool(text.strip())) for text in completions]


def is_right(completions: list[str], answer: list[str], **columns: Any) -> list[float]:
    """1 for a completion that contains the row's answer, in any case."""
    return [float(right.lower() in text.lower()) for text, right in zip(completions, answer, strict=True)]
