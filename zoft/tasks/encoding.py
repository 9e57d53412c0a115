"""From rows to batches: prompts are tokenised once, over-long ones lose text and never their tail.

Shapes: B examples, O options, L tokens, T the longest option's tokens. In the usual case (every option one
token) a batch holds ``input_ids [B, L]``, ``option_ids [B, O]`` and ``option_positions [B, 1]``; otherwise
each option is a row of its own: ``input_ids [B, O, L]``, ``option_ids [B, O, T]`` and
``option_positions [B, O, T]``. Every tensor's first dimension is B, so that anyone can cut a batch up.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from zoft.errors import ConfigError, ZoftWarning
from zoft.tasks.data import label_key
from zoft.tasks.prompted import MASK, NO_TOKEN, PromptedTask

__all__ = ["EncodedPrompts", "Example", "PromptEncoder", "PromptedCollator"]

UNLIMITED = 1_000_000  # tokenizers that know no limit report a huge number


class Example(TypedDict):
    """One prompt: its tokens, where the label word is predicted (counted from the end), and its class."""

    input_ids: list[int]
    position: int
    label: int


@dataclass(frozen=True)
class EncodedPrompts(Dataset[Example]):
    """Encoded examples, usable as a ``Trainer``'s data set (with ``remove_unused_columns=False``)."""

    examples: list[Example]
    truncated: int  # how many examples lost some of their text

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]

    @property
    def truncated_share(self) -> float:
        """The share of examples that lost some of their text."""
        return self.truncated / max(1, len(self))


@dataclass(frozen=True)
class PromptedCollator:
    """Pads examples to the longest of the batch: on the left for causal models, on the right for masked ones.

    Args:
        options: The token ids of each option.
        pad_token_id: What fills up shorter prompts.
        is_masked: Whether the model is a masked one.
        pad_to_multiple_of: Round the length up; for matrix units that like it.
    """

    options: tuple[tuple[int, ...], ...]
    pad_token_id: int
    is_masked: bool = False
    pad_to_multiple_of: int | None = None

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Return the batch; see the module's docstring for its tensors."""
        labels = torch.tensor([example["label"] for example in examples])
        if all(len(option) == 1 for option in self.options):
            batch = self._pad([example["input_ids"] for example in examples])
            option_ids = torch.tensor([option[0] for option in self.options])
            batch["option_ids"] = option_ids.expand(len(examples), -1).contiguous()
            ends = torch.tensor([[example["position"]] for example in examples])
            lengths = torch.tensor([[len(example["input_ids"])] for example in examples])
            # A negative index counts from the row's end; padding on the right moves that end.
            batch["option_positions"] = ends + lengths - batch["input_ids"].shape[1] if self.is_masked else ends
            return {**batch, "labels": labels}
        rows = [[*example["input_ids"], *option[:-1]] for example in examples for option in self.options]
        count, longest = len(self.options), max(map(len, self.options))
        batch = {name: tensor.view(-1, count, tensor.shape[1]) for name, tensor in self._pad(rows).items()}
        padded = [[*option, *[NO_TOKEN] * (longest - len(option))] for option in self.options]
        # The last input token predicts an option's last token; position k - len(option) predicts its token k.
        where = [[min(k - len(option), -1) for k in range(longest)] for option in self.options]
        batch["option_ids"] = torch.tensor(padded).expand(len(examples), -1, -1).contiguous()
        batch["option_positions"] = torch.tensor(where).expand(len(examples), -1, -1).contiguous()
        return {**batch, "labels": labels}

    def _pad(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        length = max(map(len, rows))
        if self.pad_to_multiple_of is not None:
            length = -(-length // self.pad_to_multiple_of) * self.pad_to_multiple_of
        ids, mask = [], []
        for row in rows:
            filler = [self.pad_token_id] * (length - len(row))
            zeros, ones = [0] * len(filler), [1] * len(row)
            ids.append([*row, *filler] if self.is_masked else [*filler, *row])
            mask.append(ones + zeros if self.is_masked else zeros + ones)
        batch = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
        if not self.is_masked:
            # Models with absolute positions must count from each row's first real token.
            batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp_min(0)
        return batch


class PromptEncoder:
    """Tokenises a task's options (once, checked) and its rows.

    Args:
        task: The template and the label words.
        tokenizer: The model's tokenizer; it is not changed.
        max_length: The longest input in tokens; default: what the tokenizer says the model can take.
        reserved: How many of them something else needs, such as an adapter's virtual tokens.

    Raises:
        ConfigError: Two options have the same tokens, a masked task's option has several, or a token is
            missing.
    """

    def __init__(
        self,
        task: PromptedTask,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None = None,
        *,
        reserved: int = 0,
    ) -> None:
        self.task = task
        self.tokenizer = tokenizer
        if task.is_masked and tokenizer.mask_token is None:
            raise ConfigError(f"the template contains {MASK}, but the model's tokenizer has no mask token")
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        if pad is None:
            raise ConfigError("the model's tokenizer has neither a padding nor an end-of-text token; set pad_token")
        self.pad_token_id: int = pad
        self.options = tuple(self._option_tokens(word) for word in task.spaced_words)
        self._check_options()
        limit = tokenizer.model_max_length if max_length is None else max_length
        extra = max(map(len, self.options)) - 1  # the option's own tokens, but the last, follow the prompt
        self.budget = min(limit, UNLIMITED) - extra - reserved

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> EncodedPrompts:
        """Tokenise checked rows (see `zoft.tasks.data.load_splits`).

        Raises:
            ConfigError: The template alone is longer than ``max_length``.
        """
        classes = {key: index for index, key in enumerate(self.task.label_keys)}
        labels = [classes[label_key(row[self.task.label_column])] for row in rows]
        prompts = [self.task.prompt_parts(row) for row in rows]
        encoded = self._tokenise(["".join(text for _, text in self._with_mask(parts)) for parts in prompts])
        truncated = 0
        for index, ids in enumerate(encoded):
            if len(ids) > self.budget:
                encoded[index] = self._shortened(prompts[index], ids)
                truncated += 1
        return EncodedPrompts(
            examples=[
                Example(input_ids=ids, position=self._position(ids), label=label)
                for ids, label in zip(encoded, labels, strict=True)
            ],
            truncated=truncated,
        )

    def collator(self, pad_to_multiple_of: int | None = None) -> PromptedCollator:
        """Return the collator for this task's encoded examples."""
        return PromptedCollator(self.options, self.pad_token_id, self.task.is_masked, pad_to_multiple_of)

    def _tokenise(self, texts: list[str]) -> list[list[int]]:
        encoded: list[list[int]] = self.tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        eos = self.tokenizer.eos_token_id
        if self.task.is_masked or eos is None:
            return encoded
        # A tokenizer that closes every text would put the end between the prompt and the label word.
        return [ids[:-1] if len(ids) > 1 and ids[-1] == eos else ids for ids in encoded]

    def _with_mask(self, parts: list[tuple[str | None, str]]) -> list[tuple[str | None, str]]:
        if not self.task.is_masked:
            return parts
        mask = str(self.tokenizer.mask_token)
        # Only the template's own text: a mask in the data must not become a second place to predict.
        return [
            (column, text.replace(MASK, mask) if column is None else text.replace(mask, " ")) for column, text in parts
        ]

    def _position(self, ids: list[int]) -> int:
        return ids.index(self.tokenizer.mask_token_id) - len(ids) if self.task.is_masked else -1

    def _shortened(self, parts: list[tuple[str | None, str]], ids: list[int]) -> list[int]:
        """Cut the longest column's text from its end until the prompt fits."""
        if not self.tokenizer.is_fast:
            raise ConfigError("a prompt is longer than max_length, and shortening it needs a fast tokenizer")
        while (excess := len(ids) - self.budget) > 0:
            columns = [index for index, (column, text) in enumerate(parts) if column is not None and text]
            if not columns:
                raise ConfigError(
                    f"the template alone takes {len(ids)} tokens, max_length leaves {self.budget}; "
                    "raise max_length or shorten the template"
                )
            longest = max(columns, key=lambda index: len(parts[index][1]))
            column, text = parts[longest]
            offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
                "offset_mapping"
            ]
            keep = len(offsets) - excess
            cut = min(offsets[keep - 1][1], len(text) - 1) if keep > 0 else 0
            parts = [*parts[:longest], (column, text[:cut].rstrip()), *parts[longest + 1 :]]
            ids = self._tokenise(["".join(part for _, part in self._with_mask(parts))])[0]
        return ids

    def _option_tokens(self, word: str) -> tuple[int, ...]:
        """Return the tokens that ``word`` adds after the prompt, as the tokenizer splits the two together."""
        alone: list[int] = self.tokenizer(word, add_special_tokens=False)["input_ids"]
        if self.task.is_masked:
            return tuple(alone)
        tail = self.task.prompt_parts({name: "x" for name in self.task.text_columns})
        before: list[int]
        together: list[int]
        prompt = "".join(text for _, text in tail)
        before, together = self.tokenizer([prompt, prompt + word], add_special_tokens=False)["input_ids"]
        if together[: len(before)] == before and len(together) > len(before):
            return tuple(together[len(before) :])
        warnings.warn(
            f"the tokenizer merges the end of the template {self.task.template!r} with the label word "
            f"{word!r}; the word is scored apart from it. End the template without a space",
            ZoftWarning,
            stacklevel=3,
        )
        return tuple(alone)

    def _check_options(self) -> None:
        words = self.task.label_words
        for first, ids in enumerate(self.options):
            for second in range(first):
                if self.options[second] == ids:
                    raise ConfigError(
                        f"the label words {words[second]!r} and {words[first]!r} are the same tokens "
                        f"{list(ids)} to this tokenizer; choose others"
                    )
            if self.task.is_masked and len(ids) != 1:
                raise ConfigError(
                    f"a masked model predicts one token, but the label word {words[first]!r} is "
                    f"{len(ids)}: {self.tokenizer.convert_ids_to_tokens(list(ids))}; choose another word"
                )
