"""Encoded prompts, and the batches that are made of them.

Shapes: B examples, O options, L tokens, T the longest option's tokens. Where every option is one token, a batch holds
``input_ids [B, L]``, ``option_ids [B, O]`` and ``option_positions [B, 1]``; otherwise each option is a row of its own:
``input_ids [B, O, L]``, ``option_ids [B, O, T]`` and ``option_positions [B, O, T]``. A model with an encoder reads the
prompt once, ``input_ids [B, L]``, and its decoder ``option_ids [B, O, T]``. Where a task has no options, a batch holds
the prompts, ``input_ids [B, L]``. Every tensor's first dimension is B, so that anyone can cut a batch up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from zoft.tasks.option_tokens import NO_TOKEN, Tokens
from zoft.tasks.task import ModelKind

__all__ = ["Example", "PromptedCollator"]


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
