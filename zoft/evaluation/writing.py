"""Texts that a model writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase

from zoft.tasks.scoring import language_model

__all__ = ["Completion", "write_completions", "write_tokens"]


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt.

    Attributes:
        text: As a person reads it.
        ids: Its tokens, with the one that ends it, unless it was cut before.
    """

    text: str
    ids: list[int]


def write_tokens(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    inputs: dict[str, Tensor],
    *,
    max_new_tokens: int,
    processors: Sequence[LogitsProcessor] = (),
    stop: str | None = None,
) -> Tensor:
    """Return the tokens that a model writes after each prompt, the likeliest one after the other, [B, T].

    Args:
        model: A model that can ``generate``.
        tokenizer: Its tokenizer.
        inputs: ``input_ids`` and ``attention_mask``, [B, L]; of a causal model padded on the left.
        max_new_tokens: The longest text, in tokens.
        processors: What changes the logits before the likeliest token is chosen.
        stop: A text after which nothing more is written.
    """
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    tokens: Tensor = cast("Any", model).generate(
        **inputs,
        do_sample=False,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad,
        logits_processor=LogitsProcessorList(processors),
        **({} if stop is None else {"stop_strings": [stop], "tokenizer": tokenizer}),
    )
    # A decoder begins with a token of its own.
    return tokens[:, 1 if language_model(model).config.is_encoder_decoder else inputs["input_ids"].shape[1] :]


def write_completions(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    inputs: dict[str, Tensor],
    *,
    max_new_tokens: int,
    processors: Sequence[LogitsProcessor] = (),
) -> list[Completion]:
    """Return what a model writes after each prompt; see `write_tokens`."""
    tokens = write_tokens(model, tokenizer, inputs, max_new_tokens=max_new_tokens, processors=processors)
    texts: list[str] = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    ends = _end_tokens(model, tokenizer)
    return [Completion(text, _until_end(ids, ends)) for text, ids in zip(texts, tokens.tolist(), strict=True)]


def _end_tokens(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    ends = cast("Any", language_model(model)).generation_config.eos_token_id
    ends = tokenizer.eos_token_id if ends is None else ends
    return set(ends) if isinstance(ends, list) else {ends}


def _until_end(ids: list[int], ends: set[int]) -> list[int]:
    end = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    return ids[: end + 1]
