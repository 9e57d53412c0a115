"""In-context learning: solved training rows before each prompt (Brown et al. 2020, arXiv 2005.14165).

All rows are shown the same demonstrations, in the same order. Where a prompt with all of them is longer than the model
can read, the first ones are left out for it, whole; the row's own prompt is the one that it has without demonstrations.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from torch import nn

from zoft.errors import ConfigError
from zoft.tasks.answers import AnswerTask
from zoft.tasks.encoding import UNLIMITED, EncodedPrompts, PromptEncoder
from zoft.tasks.prompt_batches import Example
from zoft.tasks.rows import Columns
from zoft.tasks.scoring import language_model

__all__ = ["SEPARATOR", "InContext", "behind_demonstrations", "context_window", "draw", "encode_in_context"]

SEPARATOR = "\n\n"  # MeZO's

Row = Mapping[str, Any]


@dataclass(frozen=True)
class InContext:
    """Prompts with demonstrations.

    Attributes:
        prompts: The encoded examples.
        demonstrations: The solved prompts.
        kept: How many of them, the last ones, stand before each example's prompt.
    """

    prompts: EncodedPrompts
    demonstrations: tuple[str, ...]
    kept: tuple[int, ...]


def draw(rows: Sequence[Row], columns: Columns, count: int, seed: int) -> list[Row]:
    """Draw rows without replacement: as many of each class, as far as there are such, in random order.

    MeZO draws them without regard to classes (https://arxiv.org/abs/2305.17333), and so is done where there are none.

    Args:
        rows: What to draw from.
        columns: What the task reads of a row.
        count: How many to draw; all rows, if they are fewer.
        seed: Decides which, and their order.
    """
    rng = random.Random(f"{seed}/demonstrations")
    shuffled = rng.sample(list(rows), len(rows))
    of_classes = [[row for row in shuffled if columns.class_of(row) == label] for label in columns.labels]
    if of_classes:
        shuffled = [row for one_of_each in zip_longest(*of_classes) for row in one_of_each if row is not None]
    drawn = shuffled[:count]
    rng.shuffle(drawn)
    return drawn


def context_window(model: nn.Module, encoder: PromptEncoder) -> int | None:
    """Return how many tokens a model reads at most, None if neither it nor its tokenizer says so."""
    known = (getattr(language_model(model).config, "max_position_embeddings", None), encoder.tokenizer.model_max_length)
    return min((length for length in known if length is not None and length < UNLIMITED), default=None)


def encode_in_context(
    encoder: PromptEncoder, rows: Sequence[Row], demonstrations: Sequence[Row], context_length: int
) -> InContext:
    """Encode rows behind as many of the demonstrations as fit.

    Args:
        encoder: The task, made ready for the model.
        rows: The rows to encode.
        demonstrations: The rows to show.
        context_length: How long prompt and answer may be together, in tokens.

    Raises:
        ConfigError: A prompt alone may be longer than that.
    """
    if context_length < encoder.limit:
        raise ConfigError(
            f"max_length lets a row's own prompt have {encoder.limit} tokens, and the model reads {context_length} "
            "(context_length); lower max_length"
        )
    own = encoder.encode(rows)
    texts = [encoder.prompt_text(row) for row in rows]
    shown = tuple(encoder.prompt_text(row, solved=True).strip() for row in demonstrations)
    room = [context_length - _tokens_that_follow(encoder, example) for example in own.examples]
    kept = _estimate(encoder, shown, [len(example["input_ids"]) for example in own.examples], room)
    while True:
        prompts = behind_demonstrations(encoder, own, texts, shown, kept)
        lengths = [len(example["input_ids"]) for example in prompts.examples]
        over = [count > 0 and length > limit for count, length, limit in zip(kept, lengths, room, strict=True)]
        if not any(over):
            return InContext(prompts, shown, tuple(kept))
        kept = [count - too_many for count, too_many in zip(kept, over, strict=True)]


def behind_demonstrations(
    encoder: PromptEncoder, prompts: EncodedPrompts, texts: Sequence[str], shown: Sequence[str], kept: Sequence[int]
) -> EncodedPrompts:
    """Put the last ``kept[i]`` demonstrations before the text of example i."""
    contexts = [[*shown[len(shown) - count :], text] for count, text in zip(kept, texts, strict=True)]
    return encoder.with_prompts(prompts, [SEPARATOR.join(context) for context in contexts])


def _tokens_that_follow(encoder: PromptEncoder, example: Example) -> int:
    """Return how many tokens a model reads, or writes, behind a prompt."""
    if encoder.kind != "causal":
        return 0
    if isinstance(encoder.task, AnswerTask):
        return encoder.task.max_new_tokens
    return max(map(len, example["options"])) - 1


def _estimate(encoder: PromptEncoder, shown: Sequence[str], own: Sequence[int], room: Sequence[int]) -> list[int]:
    """Return about how many demonstrations fit, rather one too many: joined, texts may have fewer tokens."""
    joined = [text + SEPARATOR for text in shown]
    lengths = [len(ids) for ids in encoder.tokenizer(joined, add_special_tokens=False, verbose=False)["input_ids"]]
    estimates = []
    for length, limit in zip(own, room, strict=True):
        count = 0
        while count < len(shown) and length + sum(lengths[len(shown) - count - 1 :]) <= limit:
            count += 1
        estimates.append(min(count + 1, len(shown)))
    return estimates
