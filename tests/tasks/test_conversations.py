"""Rows in TRL's formats are recognised, and others are refused by what is wrong with them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from zoft.errors import DataError
from zoft.tasks.conversations import ConversationReader, read_content, read_conversation, transcript

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Sky?"}]
SAID = [{"role": "assistant", "content": "Blue."}]
SCHEMA = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"text": "The sky is blue."}, "text"),
        ({"messages": [*ASKED, *SAID]}, "messages"),
        ({"prompt": "The sky is", "completion": " blue."}, "prompt-completion"),
        ({"prompt": ASKED, "completion": SAID}, "conversational prompt-completion"),
        ({"prompt": "", "completion": "free", "text": "not read", "messages": None, "id": 7}, "prompt-completion"),
    ],
)
def test_a_rows_columns_say_its_format(row: dict[str, Any], name: str) -> None:
    assert read_conversation(row).format == name


def test_the_turns_of_a_chat_are_its_last_answer_and_what_came_before() -> None:
    again = [{"role": "user", "content": "Sea?"}, {"role": "assistant", "content": "Green."}]
    assert read_conversation({"messages": [*ASKED, *SAID, *again]}).turns == ([*ASKED, *SAID, again[0]], [again[1]])
    assert read_conversation({"messages": ASKED}).turns == (None, None)
    assert read_conversation({"messages": SAID}).turns == (None, None)
    assert read_conversation({"prompt": ASKED, "completion": SAID}).turns == (ASKED, SAID)
    assert read_conversation({"text": "x"}).turns == (None, None)


def test_absent_keys_that_parquet_fills_with_none_are_not_there() -> None:
    row = {"messages": [{**message, "tool_calls": None, "name": None} for message in SAID], "tools": None}
    conversation = read_conversation(row)
    assert conversation.completion == SAID
    assert conversation.template_options == {}


def test_tools_may_be_a_list_or_its_json_and_reach_the_template_with_its_options() -> None:
    want = {"tools": [SCHEMA], "enable_thinking": False}
    rest = {"messages": SAID, "chat_template_kwargs": {"enable_thinking": False}}
    as_json = '[{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]'
    assert read_conversation({**rest, "tools": [SCHEMA]}).template_options == want
    assert read_conversation({**rest, "tools": as_json}).template_options == want


def test_a_call_of_a_tool_needs_no_text_and_is_shown() -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "look"}}]}
    assert transcript(read_content({"prompt": [call]}, "prompt")) == 'assistant: {"function": {"name": "look"}}'


def test_what_a_row_is_known_by_is_all_of_it() -> None:
    made = ConversationReader()({"prompt": ASKED, "completion": SAID})
    assert made["transcript"] == "system: Be brief.\nuser: Sky?\nassistant: Blue."


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"promt": "x", "completion": "y"}, "found: 'promt', 'completion'. Did you mean 'prompt'?"),
        ({}, "found: nothing"),
        ({"prompt": ASKED}, "there is a prompt and no completion"),
        ({"prompt": "x", "completion": SAID}, "a prompt of type str and a completion of type list"),
        ({"text": 3}, "column 'text' must hold a text or a list of at least one message, got int"),
        ({"text": SAID}, "column 'text' must hold a text, got list"),
        ({"messages": "hello"}, "column 'messages' must hold a list of messages, got str"),
        ({"messages": []}, "got an empty list"),
        ({"messages": ["hello"]}, "column 'messages', message 1 must be an object with role and content, got 'hello'"),
        ({"messages": [*ASKED, {"content": "x"}]}, "message 3 needs a role"),
        ({"messages": [{"role": "user", "contents": "x"}]}, "got nothing. Did you mean 'content'?"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "(user) needs a text as its content, got list",
        ),
        ({"messages": [{"from": "human", "value": "x"}]}, "rename conversations to messages, from to role"),
        ({"text": " \n"}, "column 'text' is empty"),
        ({"prompt": "x", "completion": ""}, "column 'completion' is empty"),
        ({"text": "x", "tools": "{"}, "column 'tools' is not JSON"),
        ({"text": "x", "tools": "[1]"}, "column 'tools' must hold a list of JSON schemas, got [1]"),
        ({"text": "x", "chat_template_kwargs": [1]}, "must hold a mapping, got list"),
    ],
)
def test_a_damaged_row_is_refused_by_what_is_wrong_with_it(row: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=re.escape(problem)):
        read_conversation(row)


def test_rows_of_two_formats_are_refused() -> None:
    reader = ConversationReader()
    reader({"messages": SAID})
    with pytest.raises(DataError, match="has the format text, and the rows before it messages"):
        reader({"text": "x"})
    assert reader.format == "messages"


def test_a_row_without_an_assistant_is_refused_where_only_assistants_are_trained_on() -> None:
    reader = ConversationReader(assistant_only=True)
    reader({"messages": [*ASKED, *SAID]})
    with pytest.raises(DataError, match="no message of the row is an assistant's"):
        reader({"messages": ASKED})
    with pytest.raises(DataError, match="assistant_only_loss is for messages"):
        ConversationReader(assistant_only=True)({"text": "x"})
