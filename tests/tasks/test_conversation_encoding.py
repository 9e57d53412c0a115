"""Which tokens of a conversation are trained on, and their losses against a plain computation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.tasks.chats import ROWS, TURNS, message, with_template
from tests.tasks.placed import placed
from zoft.errors import ConfigError, DataError
from zoft.tasks import token_scoring
from zoft.tasks.conversation_encoding import ConversationEncoder, ConversationExample, EncodedConversations
from zoft.tasks.conversations import ConversationReader
from zoft.tasks.token_scoring import conversation_losses, token_scores


@pytest.fixture
def tokenizer(causal_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return with_template(causal_tokenizer)


def encode(encoder: ConversationEncoder, rows: Sequence[dict[str, Any]]) -> EncodedConversations:
    reader = ConversationReader()
    return encoder.encode(placed(map(reader, rows)))


def trained_text(tokenizer: PreTrainedTokenizerFast, example: ConversationExample) -> str:
    return str(tokenizer.decode([example["input_ids"][place] for place in example["trained"]]))


def plain_losses(model: nn.Module, example: ConversationExample) -> Tensor:
    """One row, no padding, all logits at once."""
    ids = torch.tensor([example["input_ids"]])
    logits = model(input_ids=ids).logits[0, -ids.shape[1] :]  # virtual tokens come first
    places = torch.tensor(example["trained"])
    return nn.functional.cross_entropy(logits[places - 1], ids[0, places], reduction="none")


# --- what is trained on --------------------------------------------------------------------------------


def test_of_a_prompt_with_a_completion_the_completion_is_trained_on(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = ConversationEncoder(tokenizer)
    words = encode(encoder, ROWS["prompt-completion"])
    assert trained_text(tokenizer, words[0]) == " a great cast<eos>"
    assert words.merged == 1, "in the second row a token begins in the prompt"
    assert trained_text(tokenizer, words[1]) == " great from start to end<eos>"
    chats = encode(encoder, ROWS["conversational prompt-completion"])
    assert trained_text(tokenizer, chats[0]) == "terrible<eos>" and chats.merged == 0


def test_of_texts_and_messages_all_is_trained_on_but_what_is_predicted_from_nothing(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    for rows in (ROWS["text"], ROWS["messages"]):
        for example in encode(ConversationEncoder(tokenizer), rows).examples:
            assert example["trained"] == list(range(1, len(example["input_ids"])))


def test_assistants_alone_are_trained_on_if_asked(tokenizer: PreTrainedTokenizerFast) -> None:
    [example] = encode(ConversationEncoder(tokenizer, assistant_only=True), [{"messages": TURNS}]).examples
    assert trained_text(tokenizer, example) == "It was great.<eos>terrible<eos>"


def test_long_rows_lose_their_end_and_rows_without_a_trained_token_are_left_out(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    rows = [{"prompt": "a great film", "completion": f" with{' a cast' * n}"} for n in (1, 30)]
    whole = encode(ConversationEncoder(tokenizer), rows)
    prompt = whole[0]["trained"][0]
    cut = encode(ConversationEncoder(tokenizer, 20, reserved=4), rows)
    assert [len(example["input_ids"]) for example in cut.examples] == [len(whole[0]["input_ids"]), 16]
    assert cut[1]["input_ids"] == whole[1]["input_ids"][:16] and cut.truncated == 1 and cut.left_out == 0
    long_prompt = {"prompt": "a great film" * 9, "completion": " it was"}
    lost = encode(ConversationEncoder(tokenizer, prompt + 1), [long_prompt, rows[0]])
    assert lost.left_out == 1 and [row["conversation"].prompt for row in lost.rows] == ["a great film"]
    assert [example["row"] for example in lost.examples] == [0] and len(lost[0]["trained"]) == 1


def test_what_a_model_is_asked_ends_where_it_is_to_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder, reader = ConversationEncoder(tokenizer), ConversationReader()
    asked = encoder.asked(reader({"messages": TURNS})["conversation"])
    assert tokenizer.decode(asked or []).endswith("and the start of it<eos>\n<assistant>\n")
    text = encoder.asked(ConversationReader()({"prompt": "a film", "completion": " is"})["conversation"])
    assert tokenizer.decode(text or []) == "a film"
    assert encoder.asked(ConversationReader()({"text": "a film"})["conversation"]) is None
    assert encoder.asked(ConversationReader()({"prompt": "", "completion": "a film"})["conversation"]) is None


# --- what is refused -----------------------------------------------------------------------------------


def test_messages_need_a_chat_template_and_the_error_says_how_to_give_one(
    causal_tokenizer: PreTrainedTokenizerFast,
) -> None:
    encoder = ConversationEncoder(causal_tokenizer)
    with pytest.raises(ConfigError, match=r"no chat template.*--chat_template_path"):
        encode(encoder, ROWS["messages"])
    assert len(encode(encoder, ROWS["text"])) == 2, "texts need none"


def test_assistants_alone_need_a_template_that_marks_them(causal_tokenizer: PreTrainedTokenizerFast) -> None:
    plain = with_template(causal_tokenizer, "{% for message in messages %}{{ message['content'] }}{% endfor %}")
    with pytest.raises(ConfigError, match="marks what assistants say"):
        encode(ConversationEncoder(plain, assistant_only=True), ROWS["messages"])


def test_what_a_chat_template_refuses_is_told_with_the_row(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [{"messages": TURNS}, {"messages": [message("nobody", "hello there"), *TURNS]}]
    with pytest.raises(DataError, match=r"rows: row 2: the chat template refuses the messages: nobody may not speak"):
        encode(ConversationEncoder(tokenizer), rows)


def test_a_length_without_room_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConfigError, match="max_length leaves 1 tokens"):
        ConversationEncoder(tokenizer, 9, reserved=8)


# --- losses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(ROWS))
def test_losses_in_a_padded_batch_are_those_of_each_row_alone(
    name: str,
    causal_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(token_scoring, "_ROWS", 3)  # several portions, the last one smaller
    encoder = ConversationEncoder(tokenizer, 60)
    examples = encode(encoder, [*ROWS[name], *reversed(ROWS[name])]).examples
    with torch.no_grad():
        batch = encoder.collator()(examples)
        got = conversation_losses(causal_model, batch)
        tokens, _ = token_scores(causal_model, batch)
        for example, loss, of_tokens in zip(examples, got, tokens, strict=True):
            want = plain_losses(causal_model, example)
            torch.testing.assert_close(loss, want.mean(), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(of_tokens[: len(want)], want, rtol=1e-4, atol=1e-5)
            assert not of_tokens[len(want) :].any()


def test_a_gradient_of_the_losses_is_that_of_the_plain_ones(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    encoder = ConversationEncoder(tokenizer)
    examples = encode(encoder, ROWS["conversational prompt-completion"]).examples
    weights = list(llama.parameters())
    got = torch.autograd.grad(conversation_losses(llama, encoder.collator()(examples)).mean(), weights)
    plain = torch.stack([plain_losses(llama, example).mean() for example in examples]).mean()
    for one, other in zip(got, torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_only_places_that_predict_a_trained_token_reach_the_output_layer(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    encoder = ConversationEncoder(tokenizer)
    examples = encode(encoder, ROWS["conversational prompt-completion"]).examples
    seen: list[int] = []
    llama.get_output_embeddings().register_forward_hook(lambda *call: seen.append(len(call[2])))
    conversation_losses(llama, encoder.collator()(examples))
    assert seen == [len(examples) * max(len(example["trained"]) for example in examples)]


def test_a_prompt_of_virtual_tokens_moves_no_place(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    model = get_peft_model(llama, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    encoder = ConversationEncoder(tokenizer, 100, reserved=3)
    examples = encode(encoder, ROWS["conversational prompt-completion"]).examples
    with torch.no_grad():
        want = [plain_losses(model, example).mean() for example in examples]
        got = conversation_losses(model, encoder.collator()(examples))
    torch.testing.assert_close(got, torch.stack(want), rtol=1e-4, atol=1e-5)
