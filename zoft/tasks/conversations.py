"""Rows in TRL's data formats: texts, chats, and prompts with completions.

The formats are those of https://huggingface.co/docs/trl/dataset_formats. A row has a ``prompt`` and a ``completion``,
or ``messages``, or a ``text``; the first of these that it has is read. Prompts and completions are texts, or lists of
messages like ``messages``: a role and a text each. ``tools`` (a list of JSON schemas, or its JSON) and
``chat_template_kwargs`` (a mapping) are handed to the chat template.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from zoft.errors import DataError, did_you_mean

__all__ = [
    "Content",
    "Conversation",
    "ConversationReader",
    "Message",
    "read_content",
    "read_conversation",
    "said",
    "template_options",
    "transcript",
]

Message: TypeAlias = dict[str, Any]
"""One turn: ``role`` and ``content``, and what else a chat template knows (``tool_calls``, ``name`` ...)."""

Content: TypeAlias = str | list[Message]
"""A text, or a list of at least one message."""

_COLUMNS = ("prompt", "completion", "messages", "text")
_FORMATS = '{"prompt": ..., "completion": ...}, {"messages": [...]} or {"text": ...}'


@dataclass(frozen=True)
class Conversation:
    """What a model is to read, and what it is to learn to write.

    Attributes:
        prompt: What is read alone; None where all is learned.
        completion: What follows it, a text or messages like the prompt.
        template_options: What the chat template is given besides messages.
    """

    prompt: Content | None
    completion: Content
    template_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_chat(self) -> bool:
        """Whether it is made of messages, which a chat template writes out."""
        return not isinstance(self.completion, str)

    @property
    def format(self) -> str:
        """The name of the row's format."""
        if self.prompt is None:
            return "messages" if self.is_chat else "text"
        return "conversational prompt-completion" if self.is_chat else "prompt-completion"

    @property
    def messages(self) -> list[Message]:
        """All messages of a chat."""
        assert not isinstance(self.completion, str) and not isinstance(self.prompt, str)
        return [*(self.prompt or []), *self.completion]

    @property
    def turns(self) -> tuple[Content | None, Content | None]:
        """What a model would be asked, and what it should say: of a chat without a prompt, its last answer."""
        if self.prompt is not None:
            return self.prompt, self.completion
        if isinstance(self.completion, str):
            return None, None
        before, last = self.completion[:-1], self.completion[-1:]
        return (before, last) if before and last[0]["role"] == "assistant" else (None, None)


class ConversationReader:
    """Makes rows that `zoft.tasks.data.load_splits` takes: ``conversation``, and ``transcript``, a text to know it by.

    All rows must have the format of the first.

    Args:
        assistant_only: Refuse rows in which no assistant says anything.
    """

    def __init__(self, *, assistant_only: bool = False) -> None:
        self.format: str | None = None
        self._assistant_only = assistant_only

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Read a row.

        Raises:
            DataError: The row cannot be read, or has another format than the first, or no assistant. The message leaves
                it to the caller to say which row it is.
        """
        conversation = read_conversation(row)
        self.format = self.format or conversation.format
        if conversation.format != self.format:
            raise DataError(
                f"the row has the format {conversation.format}, and the rows before it {self.format}; the loss "
                "would not be the same for all of them. Give all rows one format"
            )
        if self._assistant_only:
            _check_assistant(conversation)
        whole = [part for part in (conversation.prompt, conversation.completion) if part is not None]
        return {"conversation": conversation, "transcript": "\n".join(map(transcript, whole))}


def _check_assistant(conversation: Conversation) -> None:
    if isinstance(conversation.completion, str):
        raise DataError(
            f"assistant_only_loss is for messages, and the row has the format {conversation.format}; leave it out"
        )
    if not any(message["role"] == "assistant" for message in conversation.completion):
        raise DataError("assistant_only_loss leaves nothing to train on: no message of the row is an assistant's")


def read_conversation(row: Mapping[str, Any]) -> Conversation:
    """Return what a row holds.

    Raises:
        DataError: The row has none of the formats, or is damaged. The message leaves it to the caller to say which row
            it is.
    """
    options = template_options(row)
    if row.get("prompt") is not None and row.get("completion") is not None:
        prompt, completion = read_content(row, "prompt"), read_content(row, "completion")
        if isinstance(prompt, str) != isinstance(completion, str):
            raise DataError(
                "prompt and completion must both be texts, or both lists of messages; got a prompt of type "
                f"{type(prompt).__name__} and a completion of type {type(completion).__name__}"
            )
        return Conversation(prompt, _not_blank(completion, "completion"), options)
    for name, kind in (("messages", list), ("text", str)):
        if row.get(name) is not None:
            content = read_content(row, name)
            if not isinstance(content, kind):
                wanted = "a text" if kind is str else "a list of messages"
                raise DataError(f"column {name!r} must hold {wanted}, got {type(content).__name__}")
            return Conversation(None, _not_blank(content, name), options)
    if row.get("prompt") is not None:
        raise DataError(f"there is a prompt and no completion to learn; expected {_FORMATS}")
    found = ", ".join(map(repr, row)) or "nothing"
    raise DataError(f"expected a row like {_FORMATS}, found: {found}.{_misspelt(row, _COLUMNS)}")


def read_content(row: Mapping[str, Any], name: str) -> Content:
    """Return what a column holds: a text, or messages, without the keys that are None in them.

    Args:
        row: The row.
        name: The column.

    Raises:
        DataError: There is no such column, or it holds something else. The message leaves it to the caller to say which
            row it is.
    """
    if name not in row:
        raise DataError(f"there is no column {name!r}; found: {', '.join(map(repr, row))}.{did_you_mean(name, row)}")
    value = row[name]
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise DataError(
            f"column {name!r} must hold a text or a list of at least one message, got "
            f"{'an empty list' if value == [] else type(value).__name__}"
        )
    return [_message(message, f"column {name!r}, message {number}") for number, message in enumerate(value, start=1)]


def template_options(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a row's chat template is given besides messages: ``tools``, and ``chat_template_kwargs``.

    Raises:
        DataError: A column holds something else. The message leaves it to the caller to say which row it is.
    """
    tools, options = row.get("tools"), row.get("chat_template_kwargs") or {}
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError as error:
            raise DataError(f"column 'tools' is not JSON: {error.msg} (column {error.colno})") from None
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise DataError(f"column 'tools' must hold a list of JSON schemas, got {tools!r:.80}")
    if not isinstance(options, dict):
        raise DataError(f"column 'chat_template_kwargs' must hold a mapping, got {type(options).__name__}")
    return {**({"tools": tools} if tools else {}), **options}


def transcript(content: Content) -> str:
    """Return a content as a person reads it: ``role: text``, a message a paragraph."""
    if isinstance(content, str):
        return content
    return "\n".join(f"{message['role']}: {said([message])}" for message in content)


def said(content: Content) -> str:
    """Return what is said in a content, and which tools are called, without roles."""
    if isinstance(content, str):
        return content
    parts = []
    for message in content:
        parts += [message["content"]] if message.get("content") else []
        parts += [json.dumps(call, ensure_ascii=False) for call in message.get("tool_calls", ())]
    return "\n".join(parts)


def _message(value: object, where: str) -> Message:
    if not isinstance(value, dict):
        raise DataError(f"{where} must be an object with role and content, got {value!r:.80}")
    message = {name: part for name, part in value.items() if part is not None}  # Parquet fills absent keys with None
    if not isinstance(message.get("role"), str) or not message["role"]:
        found = ", ".join(map(repr, message))
        raise DataError(f"{where} needs a role (system, user, assistant ...), found: {found}.{_wrong_key(message)}")
    content = message.get("content")
    if not isinstance(content, str) and not (content is None and message.get("tool_calls")):
        got = "nothing" if content is None else type(content).__name__
        raise DataError(f"{where} ({message['role']}) needs a text as its content, got {got}.{_wrong_key(message)}")
    return message


def _wrong_key(message: Message) -> str:
    if "from" in message or "value" in message:
        return (
            " It has the keys of ShareGPT's format: rename conversations to messages, from to role, value to content."
        )
    return _misspelt(message, ("role", "content"))


def _misspelt(names: Iterable[str], known: Sequence[str]) -> str:
    hints = (did_you_mean(name, known) for name in names if name not in known)
    return next(filter(None, hints), "")


def _not_blank(content: Content, name: str) -> Content:
    if isinstance(content, str) and not content.strip():
        raise DataError(f"column {name!r} is empty: there is nothing to learn from the row")
    return content
