"""A chat template, and rows of every format that it can write out."""

from __future__ import annotations

import copy
from typing import Any

from transformers import PreTrainedTokenizerFast

TEMPLATE = (
    "{% if tools %}<tools>{{ tools | tojson }}\n{% endif %}"
    "{% for message in messages %}<{{ message['role'] }}>\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<eos>{% endgeneration %}\n"
    "{% elif message['role'] == 'nobody' %}{{ raise_exception('nobody may not speak') }}"
    "{% else %}{{ message['content'] }}<eos>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)


def message(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


SYSTEM = message("system", "Say whether the film is great.")
TURNS = [
    message("user", "a film with a great cast"),
    message("assistant", "It was great."),
    message("user", "and the start of it"),
    message("assistant", "terrible"),
]

ROWS: dict[str, list[dict[str, Any]]] = {
    "text": [{"text": "a great film"}, {"text": "from start to end it is rather good<eos>"}],
    "messages": [{"messages": [SYSTEM, *TURNS]}, {"messages": TURNS[:2]}],
    "prompt-completion": [
        {"prompt": "a film with", "completion": " a great cast"},
        {"prompt": "the movie was grea", "completion": "t from start to end"},  # a token spans the border
    ],
    "conversational prompt-completion": [
        {"prompt": [SYSTEM, *TURNS[:3]], "completion": TURNS[3:]},
        {"prompt": TURNS[:1], "completion": TURNS[1:]},
    ],
}
"""Two rows of each format."""


def with_template(tokenizer: PreTrainedTokenizerFast, template: str = TEMPLATE) -> PreTrainedTokenizerFast:
    """Return a copy of a tokenizer that writes out chats."""
    copied = copy.deepcopy(tokenizer)
    copied.chat_template = template
    return copied
