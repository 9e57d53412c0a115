"""From rows to encoded examples: prompts are tokenised once, over-long ones lose text and never their tail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from zoft.errors import ConfigError
from zoft.tasks.option_tokens import Tokens, check_label_words, option_tokens
from zoft.tasks.prompt_batches import Example, PromptedCollator
from zoft.tasks.prompt_cutting import fitted
from zoft.tasks.task import ModelKind, Task
from zoft.tasks.template import MASK, Parts

__all__ = ["UNLIMITED", "EncodedPrompts", "PromptEncoder"]

UNLIMITED = 1_000_000  # tokenizers that know no limit report a huge number
NO_OPTION = -1  # is right where there are no options


@dataclass(frozen=True)
class EncodedPrompts(Dataset[Example]):
    """Encoded examples, usable as a ``Trainer``'s data set (with ``remove_unused_columns=False``).

    Attributes:
        examples: The examples.
        lengths: The tokens of each one's prompt before any were cut.
        rows: What they were made of, in the same order.
    """

    examples: list[Example]
    lengths: Sequence[int]
    rows: Sequence[Mapping[str, Any]] = ()

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


class PromptEncoder:
    """Tokenises a task's options and its rows.

    Options that all rows share are tokenised once, and checked when the encoder is made.

    Args:
        task: The template and the options.
        tokenizer: The model's tokenizer; it is not changed.
        max_length: The longest input in tokens; default: what the tokenizer says the model can take.
        reserved: How many of them something else needs, such as an adapter's virtual tokens.
        kind: What kind of model reads the prompts; default: a masked one if the template has a mask, else a causal one.

    Raises:
        ConfigError: Two options have the same tokens, a masked task's option has several, or a token is
            missing.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None = None,
        *,
        reserved: int = 0,
        kind: ModelKind | None = None,
    ) -> None:
        self.task = task
        self.tokenizer = tokenizer
        self.kind: ModelKind = kind or ("masked" if MASK in task.template else "causal")
        if (self.kind == "masked") != (MASK in task.template):
            raise ConfigError(
                f"a masked language model needs {MASK} once in the template, where the label word is to be predicted, "
                f"and other models none; this one is {self.kind}, and the template is {task.template!r}"
            )
        if self.kind == "masked" and tokenizer.mask_token is None:
            raise ConfigError(f"the template contains {MASK}, but the model's tokenizer has no mask token")
        if self.kind == "masked" and task.trains_on == "answer":
            raise ConfigError("trains_on: a masked language model is trained on its options; got 'answer'")
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        if pad is None:
            raise ConfigError("the model's tokenizer has neither a padding nor an end-of-text token; set pad_token")
        self.pad_token_id: int = pad
        limit = tokenizer.model_max_length if max_length is None else max_length
        self.limit = min(limit, UNLIMITED) - reserved
        if task.label_words is not None:
            _ = self._shared_options  # what is wrong with them is to be known now

    def encode(self, rows: Sequence[Mapping[str, Any]], *, training: bool = False) -> EncodedPrompts:
        """Tokenise checked rows (see `zoft.tasks.data.load_splits`).

        Args:
            rows: The rows.
            training: Leave out what is not trained on: all options but the right one, where the loss is that of the
                answer alone.

        Raises:
            ConfigError: The template alone is longer than ``max_length``.
        """
        prompts = [self.task.prompt_parts(row) for row in rows]
        encoded = self._tokenise([self._text(parts) for parts in prompts])
        examples: list[Example] = []
        lengths = list(map(len, encoded))
        for index, (row, parts, ids) in enumerate(zip(rows, prompts, encoded, strict=True)):
            options = self._options_of(row, parts)
            label = self.task.right(row)[0] if options else NO_OPTION
            if options and training and self.task.trains_on == "answer":
                options, label = (options[label],), 0
            _, ids = self._fitted(parts, ids, self._budget(options))
            examples.append(
                Example(input_ids=ids, position=self._position(ids), options=options, label=label, row=index)
            )
        return EncodedPrompts(examples, lengths, rows)

    def prompt_text(self, row: Mapping[str, Any], *, solved: bool = False) -> str:
        """Return a row's prompt as text, cut where `encode` cuts it.

        Args:
            row: A checked row.
            solved: Put the right option where it belongs.
        """
        parts = self.task.prompt_parts(row)
        ids = self._tokenise([self._text(parts)])[0]
        text = self._text(self._fitted(parts, ids, self._budget(self._options_of(row, parts)))[0])
        if not solved:
            return text
        option = self.task.options(row)[self.task.right(row)[0]]
        # A mask has its space before it already.
        return text.replace(str(self.tokenizer.mask_token), option.strip()) if self.kind == "masked" else text + option

    def with_prompts(self, dataset: EncodedPrompts, texts: Sequence[str]) -> EncodedPrompts:
        """Return encoded examples with other prompts, one for each. They are not cut."""
        examples = [
            Example(
                input_ids=ids,
                position=self._position(ids),
                options=example["options"],
                label=example["label"],
                row=example["row"],
            )
            for ids, example in zip(self._tokenise(list(texts)), dataset.examples, strict=True)
        ]
        return replace(dataset, examples=examples)

    def collator(self, pad_to_multiple_of: int | None = None) -> PromptedCollator:
        """Return the collator for encoded examples."""
        return PromptedCollator(self.pad_token_id, self.kind, pad_to_multiple_of)

    def _budget(self, options: tuple[Tokens, ...]) -> int:
        # The option's own tokens, but the last, follow a causal model's prompt.
        return self.limit - (max(map(len, options), default=1) - 1 if self.kind == "causal" else 0)

    def _tokenise(self, texts: list[str]) -> list[list[int]]:
        encoded: list[list[int]] = self.tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        eos = self.tokenizer.eos_token_id
        if self.kind != "causal" or eos is None:
            return encoded
        # A tokenizer that closes every text would put the end between the prompt and the label word.
        return [ids[:-1] if len(ids) > 1 and ids[-1] == eos else ids for ids in encoded]

    def _text(self, parts: Parts) -> str:
        if self.kind != "masked":
            return "".join(text for _, text in parts)
        mask = str(self.tokenizer.mask_token)
        # Only the template's own text: a mask in the data must not become a second place to predict.
        return "".join(
            text.replace(MASK, mask) if column is None else text.replace(mask, " ") for column, text in parts
        )

    def _position(self, ids: list[int]) -> int:
        return ids.index(self.tokenizer.mask_token_id) - len(ids) if self.kind == "masked" else -1

    def _fitted(self, parts: Parts, ids: list[int], budget: int) -> tuple[Parts, list[int]]:
        return fitted(
            parts,
            ids,
            budget,
            tokenizer=self.tokenizer,
            tokens_of=lambda parts: self._tokenise([self._text(parts)])[0],
        )

    # --- options ----------------------------------------------------------------------------------------

    @cached_property
    def _shared_options(self) -> tuple[Tokens, ...]:
        sample = {name: "x" for name in self.task.text_columns}
        parts, options = self.task.prompt_parts(sample), self.task.options(sample)
        tokens = option_tokens(self.tokenizer, self.kind, self.task.template, parts, options)
        assert self.task.label_words is not None  # else rows share none
        check_label_words(self.tokenizer, self.kind, self.task.label_words, tokens)
        return tokens

    def _options_of(self, row: Mapping[str, Any], parts: Parts) -> tuple[Tokens, ...]:
        if self.task.label_words is not None:
            return self._shared_options
        options = self.task.options(row)
        return option_tokens(self.tokenizer, self.kind, self.task.template, parts, options) if options else ()
