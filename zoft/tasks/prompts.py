"""Prompts alone: what a model writes after them is judged, and nothing is given that would be right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from zoft.errors import ConfigError, DataError
from zoft.tasks.conversations import Content, read_content, template_options
from zoft.tasks.encoding import PromptEncoder
from zoft.tasks.prompted import check_template
from zoft.tasks.rows import Columns
from zoft.tasks.task import Task, TrainsOn
from zoft.tasks.template import MASK, Parts, fill, fill_parts, named_columns

__all__ = ["PROMPT", "ChatPromptEncoder", "ChatPrompts", "PromptColumn", "PromptTask", "has_messages", "prompt_of"]


PROMPT = "prompt"  # what TRL calls the column


@dataclass(frozen=True)
class PromptColumn(Columns):
    """The column of a prompt in one of TRL's formats: a text or a list of messages."""

    def check(self, row: Mapping[str, Any]) -> None:
        """See `Columns.check`."""
        for name in self.text:
            read_content(row, name)


@dataclass(frozen=True)
class PromptTask:
    """A prompt.

    Args:
        template: The prompt, see `zoft.tasks.prompted.PromptedTask`.
        reads: What is read of a row; default: what the template names.

    Raises:
        ConfigError: The template cannot be used; the message says why.
    """

    template: str
    reads: Columns | None = None

    metric = "reward"
    label_words = None
    trains_on: TrainsOn = "answer"

    def __post_init__(self) -> None:
        check_template(self.template, hidden=self.columns.label)
        if MASK in self.template:
            raise ConfigError(f"a model is to write after the prompt, and {MASK} is for models that fill a gap")

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that the template names."""
        return named_columns(self.template)

    @property
    def columns(self) -> Columns:
        """What the task reads of a row."""
        return Columns(self.text_columns) if self.reads is None else self.reads

    def prompt_parts(self, row: Mapping[str, Any]) -> Parts:
        """Return the prompt in pieces."""
        return fill_parts(self.template, row)

    def options(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return nothing: anything may follow."""
        return ()

    def right(self, row: Mapping[str, Any]) -> tuple[int, ...]:
        """Return nothing."""
        return ()


@dataclass(frozen=True)
class ChatPrompts:
    """Prompts in TRL's conversational format: the column ``prompt`` holds messages, which the chat template writes out.

    Args:
        tokenizer: The model's tokenizer.

    Raises:
        ConfigError: It has no chat template.
    """

    tokenizer: PreTrainedTokenizerBase

    template = "{prompt}"
    text_columns = (PROMPT,)
    columns: Columns = PromptColumn((PROMPT,))
    metric = "reward"
    label_words = None
    trains_on: TrainsOn = "answer"

    def __post_init__(self) -> None:
        if not self.tokenizer.chat_template:
            raise ConfigError(
                "the column 'prompt' holds messages, and the model's tokenizer has no chat template to write them out; "
                "use a model made for chats, or prompts that are texts"
            )

    def prompt_parts(self, row: Mapping[str, Any]) -> Parts:
        """Return the prompt as one piece, up to where the assistant is to speak, or to go on."""
        messages = prompt_of(self, row)
        assert not isinstance(messages, str)
        goes_on = messages[-1]["role"] == "assistant"
        text = self.tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=not goes_on,
            continue_final_message=goes_on,
            **template_options(row),
        )
        return [(None, str(text))]

    def options(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return nothing: anything may follow."""
        return ()

    def right(self, row: Mapping[str, Any]) -> tuple[int, ...]:
        """Return nothing."""
        return ()


def has_messages(task: Task, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the prompts of a task's rows are lists of messages.

    Raises:
        DataError: Some are, and others are texts.
    """
    if not isinstance(task.columns, PromptColumn):
        return False
    kinds = {isinstance(row[PROMPT], str) for row in rows}
    if len(kinds) > 1:
        raise DataError(f"column {PROMPT!r} holds texts in some rows and messages in others; give all rows one format")
    return kinds == {False}


def prompt_of(task: Task, row: Mapping[str, Any]) -> Content:
    """Return a row's prompt as a reward function sees it: a text, or messages."""
    return read_content(row, PROMPT) if isinstance(task, ChatPrompts) else fill(task.template, row)


class ChatPromptEncoder(PromptEncoder):
    """Tokenises what a chat template wrote, which has all special tokens already."""

    def _tokenise(self, texts: list[str]) -> list[list[int]]:
        encoded: list[list[int]] = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return encoded
