"""From conversations to batches: tokens, and which of them are trained on, as TRL's ``SFTTrainer`` has them.

Shapes: B examples, L tokens, T the most trained tokens of an example. A batch holds ``input_ids [B, L]``, padded on the
right, ``attention_mask [B, L]``, ``label_ids [B, T]``, and ``label_positions [B, T]``, the places from which those are
predicted, counted from the padded row's end. All examples have T places, so that a batch can be cut up, and so that
the output layer sees as many rows of each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, cast

import jinja2
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from zoft.errors import ConfigError, DataError
from zoft.tasks.conversations import Content, Conversation, Message
from zoft.tasks.encoding import UNLIMITED
from zoft.tasks.option_tokens import NO_TOKEN
from zoft.tasks.places import Row

__all__ = ["ConversationCollator", "ConversationEncoder", "ConversationExample", "EncodedConversations"]

_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")


class ConversationExample(TypedDict):
    """One conversation: its tokens, the places of those that are trained on, and its own place in its data set."""

    input_ids: list[int]
    trained: list[int]
    row: int


@dataclass(frozen=True)
class EncodedConversations(Dataset[ConversationExample]):
    """Encoded conversations, usable as a ``Trainer``'s data set (with ``remove_unused_columns=False``).

    Attributes:
        examples: The examples.
        rows: What they were made of, in the same order.
        truncated: How many of all were cut to the longest length.
        left_out: How many are missing, because none of their trained tokens were left.
        merged: How many have a prompt that ends in other tokens alone than before its completion.
    """

    examples: list[ConversationExample]
    rows: Sequence[Row]
    truncated: int
    left_out: int
    merged: int

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> ConversationExample:
        return self.examples[index]


@dataclass(frozen=True)
class ConversationCollator:
    """Pads examples on the right to the longest of the batch.

    Args:
        pad_token_id: What fills up shorter ones.
    """

    pad_token_id: int

    def __call__(self, examples: Sequence[ConversationExample]) -> dict[str, Tensor]:
        """Return the batch; see the module's docstring for its tensors."""
        length = max(len(example["input_ids"]) for example in examples)
        places = max(len(example["trained"]) for example in examples)
        ids, mask, labels, positions = [], [], [], []
        for example in examples:
            tokens, trained = example["input_ids"], example["trained"]
            missing, unused = length - len(tokens), places - len(trained)
            ids.append([*tokens, *[self.pad_token_id] * missing])
            mask.append([1] * len(tokens) + [0] * missing)
            labels.append([*(tokens[place] for place in trained), *[NO_TOKEN] * unused])
            positions.append([*(place - 1 - length for place in trained), *[-1] * unused])
        return {
            "input_ids": torch.tensor(ids),
            "attention_mask": torch.tensor(mask),
            "label_ids": torch.tensor(labels),
            "label_positions": torch.tensor(positions),
            "row": torch.tensor([example["row"] for example in examples]),
        }


class ConversationEncoder:
    """Tokenises conversations.

    Of a prompt with a completion, the completion is trained on: the tokens after those that the two have in common with
    the prompt alone. Of messages and of texts, all tokens are. Texts and completions in words are closed with the
    end-of-text token; where a message ends is the chat template's affair. Too long ones are cut at their end.

    Args:
        tokenizer: The model's tokenizer; it is not changed.
        max_length: The longest input in tokens; default: what the tokenizer says the model can take.
        reserved: How many of them something else needs, such as an adapter's virtual tokens.
        assistant_only: Train on what assistants say alone. The chat template must mark it.

    Raises:
        ConfigError: The tokenizer has no end-of-text token, or ``max_length`` leaves no room.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None = None,
        *,
        reserved: int = 0,
        assistant_only: bool = False,
    ) -> None:
        if tokenizer.eos_token is None or tokenizer.eos_token_id is None:
            raise ConfigError("the model's tokenizer has no end-of-text token to close texts with; set eos_token")
        self.tokenizer = tokenizer
        self.limit = min(tokenizer.model_max_length if max_length is None else max_length, UNLIMITED) - reserved
        if self.limit < 2:
            raise ConfigError(f"max_length leaves {self.limit} tokens for a conversation; it needs at least 2")
        self._assistant_only = assistant_only
        self._eos, self._eos_id = str(tokenizer.eos_token), cast("int", tokenizer.eos_token_id)

    @property
    def pad_token_id(self) -> int:
        """What fills up shorter examples; it is never attended to."""
        pad = self.tokenizer.pad_token_id
        return self._eos_id if pad is None else cast("int", pad)

    def encode(self, rows: Sequence[Row]) -> EncodedConversations:
        """Tokenise what `zoft.tasks.conversations.ConversationReader` made of rows.

        Raises:
            ConfigError: The tokenizer has no chat template, or none that marks what assistants say.
            DataError: The chat template refuses a row's messages; the message names the row.
        """
        examples: list[ConversationExample] = []
        kept: list[Row] = []
        truncated = merged = 0
        for row in rows:
            try:
                ids, trained, is_merged = self._tokens(row["conversation"])
            except (jinja2.TemplateError, TypeError) as error:  # a template may add a text to a content of None
                raise DataError(f"{row.place}: the chat template refuses the messages: {error}") from None
            truncated, merged = truncated + (len(ids) > self.limit), merged + is_merged
            # The first token is read, but predicted from nothing.
            places = [place for place in range(1, min(len(ids), self.limit)) if trained[place]]
            if places:
                examples.append(ConversationExample(input_ids=ids[: self.limit], trained=places, row=len(kept)))
                kept.append(row)
        return EncodedConversations(examples, kept, truncated, len(rows) - len(kept), merged)

    def asked(self, conversation: Conversation) -> list[int] | None:
        """Return the tokens after which a model is to write an answer, None where there is none to write."""
        prompt, _ = conversation.turns
        if not prompt:
            return None
        if not isinstance(prompt, str):
            return self._chat(prompt, conversation, add_generation_prompt=True)["input_ids"]
        ids: list[int] = self.tokenizer(prompt)["input_ids"]
        return ids[:-1] if ids[-1] == self._eos_id else ids  # a tokenizer that closes every text

    def collator(self) -> ConversationCollator:
        """Return the collator for encoded examples."""
        return ConversationCollator(self.pad_token_id)

    def _tokens(self, conversation: Conversation) -> tuple[list[int], list[bool], bool]:
        """Return a conversation's tokens, which are trained on, and whether its prompt merges with what follows."""
        prompt = conversation.prompt
        if not conversation.is_chat:
            return self._of_text(prompt, conversation.completion)
        whole = self._chat(conversation.messages, conversation, assistants=self._assistant_only)
        ids = whole["input_ids"]
        read: list[int] = []
        if prompt is not None:
            read = self._chat(prompt, conversation, add_generation_prompt=True)["input_ids"]
        start = _shared_length(read, ids)
        spoken = whole["assistant_masks"] if self._assistant_only else [1] * len(ids)
        return ids, [place >= start and bool(said) for place, said in enumerate(spoken)], start < len(read)

    def _of_text(self, prompt: Content | None, completion: Content) -> tuple[list[int], list[bool], bool]:
        assert isinstance(completion, str) and not isinstance(prompt, list)
        closed = completion if completion.endswith(self._eos) else completion + self._eos
        ids: list[int] = self.tokenizer((prompt or "") + closed)["input_ids"]
        read: list[int] = [] if prompt is None else self.tokenizer(prompt)["input_ids"]
        start = _shared_length(read, ids)
        return ids, [place >= start for place in range(len(ids))], start < len(read)

    def _chat(
        self,
        messages: Content,
        conversation: Conversation,
        *,
        add_generation_prompt: bool = False,
        assistants: bool = False,
    ) -> dict[str, list[int]]:
        self._check_template(assistants)
        made: Any = self.tokenizer.apply_chat_template(
            cast("list[Message]", messages),
            tokenize=True,
            return_dict=True,
            add_generation_prompt=add_generation_prompt,
            return_assistant_tokens_mask=assistants,
            **conversation.template_options,
        )
        return cast("dict[str, list[int]]", made)

    def _check_template(self, assistants: bool) -> None:
        if self.tokenizer.chat_template is None:
            raise ConfigError(
                "the rows hold messages, and the model's tokenizer has no chat template to write them out with; that "
                "of a base model often has none. Give one with --chat_template_path FILE.jinja, or rows of text"
            )
        if assistants and not _MARKER.search(self.tokenizer.get_chat_template()):
            raise ConfigError(
                "assistant_only_loss needs a chat template that marks what assistants say with {% generation %} and "
                "{% endgeneration %}, and the tokenizer's does not; give one with --chat_template_path FILE.jinja"
            )


def _shared_length(ids: Sequence[int], others: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with in common."""
    pairs = zip(ids, others, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(ids), len(others)))
