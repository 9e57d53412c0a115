"""What is measured of a model that learns to answer, against a plain computation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.tasks.chats import ROWS, TURNS, with_template
from tests.tasks.placed import placed
from zoft.errors import DataError, NonFiniteLossError, ZoftWarning
from zoft.evaluation.conversations import WRITTEN, evaluate_conversations
from zoft.problems.sft import sft_problem
from zoft.tasks.conversation_encoding import ConversationEncoder
from zoft.tasks.conversations import ConversationReader
from zoft.tasks.data import Splits
from zoft.tasks.places import Row


@pytest.fixture
def encoder(causal_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> ConversationEncoder:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    return ConversationEncoder(with_template(causal_tokenizer))


def read(rows: list[dict[str, Any]]) -> list[Row]:
    reader = ConversationReader()
    return placed(map(reader, rows))


def test_the_scores_are_those_of_all_logits_of_each_row(llama: PreTrainedModel, encoder: ConversationEncoder) -> None:
    encoded = encoder.encode(read(ROWS["messages"] * 3))
    result = evaluate_conversations(llama, encoded, encoder, batch_size=4)
    losses, right, means = [], [], []
    for example in encoded.examples:
        ids = torch.tensor([example["input_ids"]])
        with torch.no_grad():
            logits = llama(input_ids=ids).logits[0, :-1]
        of_row = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        losses += of_row.tolist()
        means.append(of_row.mean().item())
        right.append((logits.argmax(-1) == ids[0, 1:]).float().mean().item())
    want = {
        "loss": sum(means) / len(means),
        "perplexity": math.exp(sum(losses) / len(losses)),
        "token_accuracy": sum(right) / len(right),
        "tokens": len(losses),
        "n": 6,
    }
    assert result.scores == pytest.approx(want, rel=1e-4)
    assert [one.loss for one in result.predictions] == pytest.approx(means, rel=1e-4)
    assert [one.score for one in result.predictions] == pytest.approx(right)
    assert all(one.predicted == "" for one in result.predictions), "nothing was to be written"


def test_the_first_rows_are_answered_as_the_model_would_alone(
    llama: PreTrainedModel, encoder: ConversationEncoder
) -> None:
    rows = read([{"prompt": TURNS[: 1 + 2 * (i % 2)], "completion": TURNS[1:2]} for i in range(WRITTEN + 2)])
    result = evaluate_conversations(llama, encoder.encode(rows), encoder, max_new_tokens=5, batch_size=3)
    for row, one in zip(rows[:WRITTEN], result.predictions, strict=False):
        prompt = torch.tensor([encoder.asked(row["conversation"])])
        with torch.no_grad():
            written = llama.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                max_new_tokens=5,
                pad_token_id=encoder.pad_token_id,
            )
        text = encoder.tokenizer.decode(written[0, prompt.shape[1] :], skip_special_tokens=True)
        assert one.predicted == text.strip() and one.expected == ("It was great.",)
    assert [one.predicted for one in result.predictions[WRITTEN:]] == ["", ""]
    assert len({one.predicted for one in result.predictions[:WRITTEN]}) == 2


def test_texts_are_measured_and_not_answered(llama: PreTrainedModel, encoder: ConversationEncoder) -> None:
    rows = read(ROWS["text"])
    problem = sft_problem(encoder, Splits(rows, rows), max_new_tokens=4)
    result = problem.evaluate(llama, problem.evaluation)
    assert {(one.expected, one.predicted) for one in result.predictions} == {((), "")}
    assert problem.show(0) == "a great film"


def test_a_prompt_that_leaves_no_room_for_an_answer_is_not_answered(
    llama: PreTrainedModel, encoder: ConversationEncoder
) -> None:
    rows = read(ROWS["conversational prompt-completion"])
    lengths = [len(encoder.asked(row["conversation"]) or []) for row in rows]
    llama.config.max_position_embeddings = min(lengths) + 4
    result = evaluate_conversations(llama, encoder.encode(rows), encoder, max_new_tokens=4)
    assert [bool(one.predicted) for one in result.predictions] == [length == min(lengths) for length in lengths]


def test_losses_that_are_not_finite_end_the_measurement(llama: PreTrainedModel, encoder: ConversationEncoder) -> None:
    with torch.no_grad():
        llama.get_input_embeddings().weight.fill_(torch.nan)
    with pytest.raises(NonFiniteLossError, match="the evaluation loss is nan over 2 examples"):
        evaluate_conversations(llama, encoder.encode(read(ROWS["text"])), encoder)


def test_a_problem_says_what_it_is_made_of_and_warns_of_rows_that_it_loses(
    causal_tokenizer: PreTrainedTokenizerFast, recwarn: pytest.WarningsRecorder
) -> None:
    encoder = ConversationEncoder(with_template(causal_tokenizer), 30)
    rows = read([{"prompt": "a great film" * n, "completion": " it was" * 30} for n in (1, 2, 30)])
    splits = Splits(rows, rows[:1], dev=rows[1:2])
    with pytest.warns(ZoftWarning, match="1 of 3 training rows are left out: none of their first 30 tokens"):
        problem = sft_problem(encoder, splits)
    assert problem.notes == ("format prompt-completion", "100.0% of the training rows are cut to 30 tokens")
    assert len(problem.train) == 2 and problem.dev is not None and len(problem.dev) == 1
    sft_problem(encoder, splits, is_private=True)
    assert not recwarn.list, "of private rows nothing is told"
    with pytest.raises(DataError, match="none of the 1 held-out rows has a token to train on among its first 30"):
        sft_problem(encoder, Splits(rows, rows[2:]), is_private=True)
