"""Problems of a language model that learns to answer, or to write on: supervised fine-tuning."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial

from zoft.errors import DataError, ZoftWarning
from zoft.evaluation.conversations import evaluate_conversations
from zoft.problems.problem import Problem
from zoft.tasks.conversation_encoding import ConversationEncoder, EncodedConversations
from zoft.tasks.conversations import Conversation, transcript
from zoft.tasks.data import Splits
from zoft.tasks.hygiene import DataReport, inspect_data
from zoft.tasks.places import Row
from zoft.tasks.token_scoring import conversation_losses

__all__ = ["sft_problem"]


def sft_problem(
    encoder: ConversationEncoder, splits: Splits, *, max_new_tokens: int = 0, is_private: bool = False
) -> Problem:
    """Encode conversations, and say how they are trained on and measured.

    Args:
        encoder: Made for the model.
        splits: What `zoft.tasks.conversations.ConversationReader` made of the rows.
        max_new_tokens: The longest answer to write for the first examples that are measured; 0: write none.
        is_private: Do not tell how many rows are left out.

    Raises:
        DataError: No row of a split has a token to train on within the longest length.
    """
    train = _some(encoder, splits.train, "training")
    evaluation = _some(encoder, splits.evaluation, "held-out")
    if not is_private:
        _warn_of_lost_rows(encoder, train, "training")
        _warn_of_lost_rows(encoder, evaluation, "held-out")
    return Problem(
        train=train,
        dev=_some(encoder, splits.dev, "development") if splits.dev else None,
        evaluation=evaluation,
        collator=encoder.collator(),
        losses=conversation_losses,
        evaluate=partial(evaluate_conversations, encoder=encoder, max_new_tokens=max_new_tokens),
        metric="token_accuracy",
        show=lambda index: _shown(evaluation.rows[index]["conversation"]),
        notes=_notes(encoder, splits, train),
        data=None if is_private else _inspected(splits),
    )


def _inspected(splits: Splits) -> DataReport:
    """Look for what is wrong with the rows, whose text is the whole conversation."""
    return inspect_data(
        {"train": splits.train, "dev": splits.dev, "evaluation": splits.evaluation},
        lambda row: [row["transcript"]],
        lambda row: None,
        left_out=splits.left_out,
    )


def _some(encoder: ConversationEncoder, rows: Sequence[Row], name: str) -> EncodedConversations:
    encoded = encoder.encode(rows)
    if not encoded.examples:
        raise DataError(
            f"none of the {len(rows)} {name} rows has a token to train on among its first {encoder.limit}; "
            "raise max_length"
        )
    return encoded


def _warn_of_lost_rows(encoder: ConversationEncoder, encoded: EncodedConversations, name: str) -> None:
    if encoded.left_out:
        warnings.warn(
            f"{encoded.left_out} of {len(encoded) + encoded.left_out} {name} rows are left out: none of their first "
            f"{encoder.limit} tokens is one to train on; raise max_length to keep them",
            ZoftWarning,
            stacklevel=3,
        )


def _notes(encoder: ConversationEncoder, splits: Splits, train: EncodedConversations) -> tuple[str, ...]:
    first: Conversation = splits.train[0]["conversation"]
    share = train.truncated / len(splits.train)
    notes = [f"format {first.format}", f"{share:.1%} of the training rows are cut to {encoder.limit} tokens"]
    if train.merged:
        notes.append(
            f"the prompts of {train.merged} training rows end in other tokens alone than before a completion, which is "
            "taken to begin where the two part"
        )
    return tuple(notes)


def _shown(conversation: Conversation) -> str:
    asked, _ = conversation.turns
    return transcript(conversation.completion if asked is None else asked)
