"""The tokens of what may follow a prompt."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from zoft.errors import ConfigError, ZoftWarning
from zoft.tasks.task import ModelKind
from zoft.tasks.template import Parts

__all__ = ["NO_TOKEN", "Tokens", "check_label_words", "option_tokens"]

NO_TOKEN = -1  # pads option ids where options differ in length, and examples in their number of options

Tokens = tuple[int, ...]

TAIL = 200  # characters of a prompt from which it is known how what follows is tokenised


def option_tokens(
    tokenizer: PreTrainedTokenizerBase, kind: ModelKind, template: str, parts: Parts, options: Sequence[str]
) -> tuple[Tokens, ...]:
    """Return the tokens that each option adds after the prompt, as the tokenizer splits the two together.

    Args:
        tokenizer: The model's tokenizer.
        kind: What kind of model reads the prompt.
        template: What the prompt was made of, for the message.
        parts: The prompt in pieces.
        options: What may follow it.
    """
    if kind != "causal":
        texts = [option.strip() if kind == "seq2seq" else option for option in options]
        alone = tokenizer(texts, add_special_tokens=kind == "seq2seq")["input_ids"]
        return tuple(map(tuple, alone))
    # The template's own end decides how the two are split; what comes long before it does not.
    prompt = "".join(text for _, text in parts)[-TAIL:]
    before, *together = tokenizer(
        [prompt, *(prompt + option for option in options)], add_special_tokens=False, verbose=False
    )["input_ids"]
    tokens: list[Tokens] = []
    for option, ids in zip(options, together, strict=True):
        if ids[: len(before)] == before and len(ids) > len(before):
            tokens.append(tuple(ids[len(before) :]))
            continue
        warnings.warn(
            f"the tokenizer merges the end of the template {template!r} with the label word "
            f"{option!r}; the word is scored apart from it. End the template without a space",
            ZoftWarning,
            stacklevel=3,
        )
        tokens.append(tuple(tokenizer(option, add_special_tokens=False)["input_ids"]))
    return tuple(tokens)


def check_label_words(
    tokenizer: PreTrainedTokenizerBase, kind: ModelKind, words: Sequence[str], options: Sequence[Tokens]
) -> None:
    """Make sure that a model can tell label words apart, and predict them.

    Raises:
        ConfigError: Two have the same tokens, or a masked model's has several.
    """
    for first, ids in enumerate(options):
        for second in range(first):
            if options[second] == ids:
                raise ConfigError(
                    f"the label words {words[second]!r} and {words[first]!r} are the same tokens "
                    f"{list(ids)} to this tokenizer; choose others"
                )
        if kind == "masked" and len(ids) != 1:
            raise ConfigError(
                f"a masked model predicts one token, but the label word {words[first]!r} is "
                f"{len(ids)}: {tokenizer.convert_ids_to_tokens(list(ids))}; choose another word"
            )
