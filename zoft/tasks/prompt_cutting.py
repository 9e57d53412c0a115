"""Prompts that are too long lose text of their row, and never what the template says after it."""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

from zoft.errors import ConfigError
from zoft.tasks.template import Parts

__all__ = ["fitted"]


def fitted(
    parts: Parts,
    ids: list[int],
    budget: int,
    *,
    tokenizer: PreTrainedTokenizerBase,
    tokens_of: Callable[[Parts], list[int]],
) -> tuple[Parts, list[int]]:
    """Cut the longest column's text from its end until the prompt fits.

    Args:
        parts: The prompt in pieces.
        ids: Its tokens.
        budget: How many it may have.
        tokenizer: Says where in a text its tokens are.
        tokens_of: Makes a prompt's tokens of its pieces.

    Returns:
        The pieces that are left, and their tokens.

    Raises:
        ConfigError: The template alone is too long, or the tokenizer does not know where tokens are.
    """
    if len(ids) > budget and not tokenizer.is_fast:
        raise ConfigError("a prompt is longer than max_length, and shortening it needs a fast tokenizer")
    while (excess := len(ids) - budget) > 0:
        columns = [index for index, (column, text) in enumerate(parts) if column is not None and text]
        if not columns:
            raise ConfigError(
                f"the template alone takes {len(ids)} tokens, max_length leaves {budget}; "
                "raise max_length or shorten the template"
            )
        longest = max(columns, key=lambda index: len(parts[index][1]))
        column, text = parts[longest]
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
            "offset_mapping"
        ]
        keep = len(offsets) - excess
        cut = min(offsets[keep - 1][1], len(text) - 1) if keep > 0 else 0
        parts = [*parts[:longest], (column, text[:cut].rstrip()), *parts[longest + 1 :]]
        ids = tokens_of(parts)
    return parts, ids
