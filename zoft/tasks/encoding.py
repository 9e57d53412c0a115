"""From rows to batches: prompts are tokenised once, over-long ones lose text and never their tail.

Shapes: B examples, O options, L tokens, T the longest option's tokens. Where every option is one token, a batch holds
``input_ids [B, L]``, ``option_ids [B, O]`` and ``option_positions [B, 1]``; otherwise each option is a row of its own:
``input_ids [B, O, L]``, ``option_ids [B, O, T]`` and ``option_positions [B, O, T]``. A model with an encoder reads the
prompt once, ``input_ids [B, L]``, and its decoder ``option_ids [B, O, T]``. Where a task has no options, a batch holds
the prompts, ``input_ids [B, L]``. Every tensor's first dimension is B, so that anyone can cut a batch up.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from zoft.errors import ConfigError, ZoftWarning
from zoft.tasks.scoring import NO_TOKEN
from zoft.tasks.task import ModelKind, Task
from zoft.tasks.template import MASK, Parts

__all__ = ["EncodedPrompts", "Example", "PromptEncoder", "PromptedCollator"]

UNLIMITED = 1_000_000  # tokenizers that know no limit report a huge number
NO_OPTION = -1  # is right where there are no options
TAIL = 200  # characters of a prompt from which it is known how what follows is tokenised

Tokens = tuple[int, ...]


class Example(TypedDict):
    """One prompt.

    Its tokens, where the label word is predicted (counted from the end), the tokens of its options, which of those is
    right, and the example's place in its data set.
    """

    input_ids: list[int]
    position: int
    options: tuple[Tokens, ...]
    label: int
    row: int


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


@dataclass(frozen=True)
class PromptedCollator:
    """Pads examples to the longest of the batch: on the left for causal models, on the right for others.

    Args:
        pad_token_id: What fills up shorter prompts.
        kind: What kind of model the batch is for.
        pad_to_multiple_of: Round the length up; for matrix units that like it.
    """

    pad_token_id: int
    kind: ModelKind = "causal"
    pad_to_multiple_of: int | None = None

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Return the batch; see the module's docstring for its tensors."""
        options = [example["options"] for example in examples]
        facts = {
            "labels": torch.tensor([example["label"] for example in examples]),
            "row": torch.tensor([example["row"] for example in examples]),
        }
        if not any(options):  # there are prompts alone
            return {**self._pad([example["input_ids"] for example in examples]), **facts}
        count, longest = max(map(len, options)), max(len(option) for row in options for option in row)
        # A lone option's probability counts, not only its share among others: it needs the vocabulary's normaliser.
        if self.kind != "seq2seq" and longest == 1 and count > 1:
            return {**self._one_token_options(examples, count), **facts}
        padded = [
            [[*option, *[NO_TOKEN] * (longest - len(option))] for option in (*row, *[()] * (count - len(row)))]
            for row in options
        ]
        batch = {"option_ids": torch.tensor(padded)}
        if self.kind == "seq2seq":
            return {**self._pad([example["input_ids"] for example in examples]), **batch, **facts}
        # Where an example has fewer options its prompt fills the place, which is not evaluated.
        rows = [
            [*example["input_ids"], *option[:-1]]
            for example in examples
            for option in (*example["options"], *[()] * (count - len(example["options"])))
        ]
        rows_of = {name: tensor.view(-1, count, tensor.shape[1]) for name, tensor in self._pad(rows).items()}
        # The last input token predicts an option's last token; position k - len(option) predicts its token k.
        where = [
            [[min(k - len(option), -1) for k in range(longest)] for option in (*row, *[()] * (count - len(row)))]
            for row in options
        ]
        return {**rows_of, **batch, "option_positions": torch.tensor(where), **facts}

    def prompts(self, prompts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Return a batch to write answers to: ``input_ids`` and ``attention_mask``, [B, L]."""
        padded = self._pad(prompts)
        return {name: padded[name] for name in ("input_ids", "attention_mask")}

    def _one_token_options(self, examples: Sequence[Example], count: int) -> dict[str, Tensor]:
        batch = self._pad([example["input_ids"] for example in examples])
        ids = [[option[0] for option in example["options"]] for example in examples]
        batch["option_ids"] = torch.tensor([[*row, *[NO_TOKEN] * (count - len(row))] for row in ids])
        ends = torch.tensor([[example["position"]] for example in examples])
        lengths = torch.tensor([[len(example["input_ids"])] for example in examples])
        # A negative index counts from the row's end; padding on the right moves that end.
        masked = self.kind == "masked"
        batch["option_positions"] = ends + lengths - batch["input_ids"].shape[1] if masked else ends
        return batch

    def _pad(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        length = max(map(len, rows))
        if self.pad_to_multiple_of is not None:
            length = -(-length // self.pad_to_multiple_of) * self.pad_to_multiple_of
        ids, mask = [], []
        for row in rows:
            filler = [self.pad_token_id] * (length - len(row))
            zeros, ones = [0] * len(filler), [1] * len(row)
            ids.append([*filler, *row] if self.kind == "causal" else [*row, *filler])
            mask.append(zeros + ones if self.kind == "causal" else ones + zeros)
        batch = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
        if self.kind == "causal":
            # Models with absolute positions must count from each row's first real token.
            batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp_min(0)
        return batch


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
            budget = self._budget(options)
            if len(ids) > budget:
                ids = self._shortened(parts, ids, budget)
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

    def _shortened(self, parts: Parts, ids: list[int], budget: int) -> list[int]:
        return self._fitted(parts, ids, budget)[1]

    def _fitted(self, parts: Parts, ids: list[int], budget: int) -> tuple[Parts, list[int]]:
        """Cut the longest column's text from its end until the prompt fits."""
        if len(ids) > budget and not self.tokenizer.is_fast:
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
            offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
                "offset_mapping"
            ]
            keep = len(offsets) - excess
            cut = min(offsets[keep - 1][1], len(text) - 1) if keep > 0 else 0
            parts = [*parts[:longest], (column, text[:cut].rstrip()), *parts[longest + 1 :]]
            ids = self._tokenise([self._text(parts)])[0]
        return parts, ids

    # --- options ----------------------------------------------------------------------------------------

    @cached_property
    def _shared_options(self) -> tuple[Tokens, ...]:
        sample = {name: "x" for name in self.task.text_columns}
        options = self._option_tokens(self.task.prompt_parts(sample), self.task.options(sample))
        self._check_options(options)
        return options

    def _options_of(self, row: Mapping[str, Any], parts: Parts) -> tuple[Tokens, ...]:
        if self.task.label_words is not None:
            return self._shared_options
        options = self.task.options(row)
        return self._option_tokens(parts, options) if options else ()

    def _option_tokens(self, parts: Parts, options: tuple[str, ...]) -> tuple[Tokens, ...]:
        """Return the tokens that each option adds after the prompt, as the tokenizer splits the two together."""
        if self.kind != "causal":
            texts = [option.strip() if self.kind == "seq2seq" else option for option in options]
            alone = self.tokenizer(texts, add_special_tokens=self.kind == "seq2seq")["input_ids"]
            return tuple(map(tuple, alone))
        # The template's own end decides how the two are split; what comes long before it does not.
        prompt = "".join(text for _, text in parts)[-TAIL:]
        before, *together = self.tokenizer(
            [prompt, *(prompt + option for option in options)], add_special_tokens=False, verbose=False
        )["input_ids"]
        tokens: list[Tokens] = []
        for option, ids in zip(options, together, strict=True):
            if ids[: len(before)] == before and len(ids) > len(before):
                tokens.append(tuple(ids[len(before) :]))
                continue
            warnings.warn(
                f"the tokenizer merges the end of the template {self.task.template!r} with the label word "
                f"{option!r}; the word is scored apart from it. End the template without a space",
                ZoftWarning,
                stacklevel=3,
            )
            tokens.append(tuple(self.tokenizer(option, add_special_tokens=False)["input_ids"]))
        return tuple(tokens)

    def _check_options(self, options: tuple[Tokens, ...]) -> None:
        words = self.task.label_words
        assert words is not None  # only shared options are checked
        for first, ids in enumerate(options):
            for second in range(first):
                if options[second] == ids:
                    raise ConfigError(
                        f"the label words {words[second]!r} and {words[first]!r} are the same tokens "
                        f"{list(ids)} to this tokenizer; choose others"
                    )
            if self.kind == "masked" and len(ids) != 1:
                raise ConfigError(
                    f"a masked model predicts one token, but the label word {words[first]!r} is "
                    f"{len(ids)}: {self.tokenizer.convert_ids_to_tokens(list(ids))}; choose another word"
                )
