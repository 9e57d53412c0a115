"""Tasks that are not a prompt and what may follow it; ``task`` names them beside the published ones."""

from __future__ import annotations

__all__ = ["IMAGES", "SFT", "TEXTS"]

SFT = "sft"
"""The task of learning to answer, or to write on, from conversations and texts."""

IMAGES, TEXTS = "image_classification", "text_classification"
"""The tasks of models with a layer for classes."""
