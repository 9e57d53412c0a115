"""Tokenising prompts: what survives truncation, how batches are padded, which options are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from zoft.errors import ConfigError, ZoftWarning
from zoft.tasks.encoding import PromptEncoder
from zoft.tasks.prompted import PromptedTask

TEMPLATE = "{text}\nOverall, the movie was"
TASK = PromptedTask(TEMPLATE, ("terrible", "great"))
MASKED = PromptedTask("{text} It was [MASK] .", ("terrible", "great"))


def test_truncation_cuts_the_text_and_keeps_the_prompt_tail(
    causal_tokenizer: PreTrainedTokenizerFast,
) -> None:
    encoder = PromptEncoder(TASK, causal_tokenizer, max_length=24)
    rows = [{"text": "a film with a cast " * 20, "label": 0}, {"text": "great", "label": 1}]
    encoded = encoder.encode(rows)
    kept = [len(example["input_ids"]) for example in encoded]
    assert [full > left for full, left in zip(encoded.lengths, kept, strict=True)].count(True) == 1
    text = causal_tokenizer.decode(encoded[0]["input_ids"])
    assert 20 <= len(encoded[0]["input_ids"]) <= 24, "it should lose no more than it must"
    assert text.startswith("a film with a cast")
    assert text.endswith("\nOverall, the movie was")


def test_truncation_cuts_the_longest_column_only(causal_tokenizer: PreTrainedTokenizerFast) -> None:
    task = PromptedTask("{question} {passage} Answer:", ("No", "Yes"))
    row = {"question": "is it a film", "passage": "a great cast " * 50, "label": 1}
    encoded = PromptEncoder(task, causal_tokenizer, max_length=32).encode([row])
    assert causal_tokenizer.decode(encoded[0]["input_ids"]).startswith("is it a film a great cast")


def test_truncation_leaves_room_for_the_options(causal_tokenizer: PreTrainedTokenizerFast) -> None:
    task = PromptedTask(TEMPLATE, ("rather terrible indeed", "great"))
    encoder = PromptEncoder(task, causal_tokenizer, max_length=32)
    encoded = encoder.encode([{"text": "a film " * 50, "label": 0}])
    assert encoder.collator()([encoded[0]])["input_ids"].shape[-1] <= 32


def test_truncation_leaves_room_for_virtual_tokens(
    causal_tokenizer: PreTrainedTokenizerFast, masked_tokenizer: PreTrainedTokenizerFast
) -> None:
    row = {"text": "a film " * 80, "label": 0}
    encoded = PromptEncoder(TASK, causal_tokenizer, max_length=32, reserved=5).encode([row])
    assert 23 <= len(encoded[0]["input_ids"]) <= 27
    encoded = PromptEncoder(MASKED, masked_tokenizer, reserved=5).encode([row])
    assert len(encoded[0]["input_ids"]) <= 59, "64 less 5"


def test_truncated_masked_prompt_keeps_its_mask(masked_tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = PromptEncoder(MASKED, masked_tokenizer).encode([{"text": "a film " * 80, "label": 0}])
    assert len(encoded[0]["input_ids"]) <= 64, "the tokenizer's own limit is the default"
    assert encoded[0]["input_ids"][encoded[0]["position"]] == masked_tokenizer.mask_token_id


def test_template_longer_than_the_limit_is_refused(causal_tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = PromptEncoder(TASK, causal_tokenizer, max_length=3)
    with pytest.raises(ConfigError, match="the template alone takes"):
        encoder.encode([{"text": "a film", "label": 0}])


def test_causal_batches_are_padded_left_with_eos_and_positions_count_from_the_text(
    causal_tokenizer: PreTrainedTokenizerFast, rows: Any
) -> None:
    encoder = PromptEncoder(TASK, causal_tokenizer)
    encoded = encoder.encode(rows)
    batch = encoder.collator(pad_to_multiple_of=8)([encoded[0], encoded[1]])
    assert batch["input_ids"].shape[1] % 8 == 0
    for index in range(2):
        length = len(encoded[index]["input_ids"])
        assert batch["input_ids"][index, -length:].tolist() == encoded[index]["input_ids"]
        assert set(batch["input_ids"][index, :-length].tolist()) == {causal_tokenizer.eos_token_id}
        assert batch["attention_mask"][index].sum() == length
        assert batch["position_ids"][index, -length:].tolist() == list(range(length))
    assert causal_tokenizer.pad_token is None, "the tokenizer itself is not changed"


def test_every_tensor_of_a_batch_starts_with_the_batch_dimension(
    causal_tokenizer: PreTrainedTokenizerFast, rows: Any
) -> None:
    for words in (("terrible", "great"), ("rather terrible indeed", "great")):
        encoder = PromptEncoder(PromptedTask(TEMPLATE, words), causal_tokenizer)
        batch = encoder.collator()(encoder.encode(rows).examples)
        assert {tensor.shape[0] for tensor in batch.values()} == {len(rows)}
        assert all(isinstance(tensor, torch.Tensor) for tensor in batch.values())


def test_labels_follow_the_order_of_the_label_words(causal_tokenizer: PreTrainedTokenizerFast) -> None:
    task = PromptedTask(TEMPLATE, ("terrible", "great"), labels=("pos", "neg"))
    rows = [{"text": "a", "label": "neg"}, {"text": "b", "label": "pos"}]
    assert [example["label"] for example in PromptEncoder(task, causal_tokenizer).encode(rows).examples] == [
        1,
        0,
    ]


def test_options_with_the_same_tokens_are_refused(causal_tokenizer: PreTrainedTokenizerFast) -> None:
    class Blind(PreTrainedTokenizerFast):  # a tokenizer that knows no capitals
        def __call__(self, text: Any, **options: Any) -> Any:
            lowered = text.lower() if isinstance(text, str) else [item.lower() for item in text]
            return super().__call__(lowered, **options)

    blind = Blind(tokenizer_object=causal_tokenizer.backend_tokenizer, eos_token="<eos>")
    with pytest.raises(ConfigError, match="the same tokens"):
        PromptEncoder(PromptedTask(TEMPLATE, ("Great", "great")), blind)


def test_masked_option_of_several_tokens_is_refused(masked_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConfigError, match="predicts one token"):
        PromptEncoder(PromptedTask("{text} It was [MASK] .", ("unspeakable", "great")), masked_tokenizer)


def test_masked_template_needs_a_mask_token(causal_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConfigError, match="no mask token"):
        PromptEncoder(MASKED, causal_tokenizer)


def test_template_end_that_merges_with_the_label_word_warns(
    causal_tokenizer: PreTrainedTokenizerFast,
) -> None:
    with pytest.warns(ZoftWarning, match="End the template without a space"):
        PromptEncoder(PromptedTask("{text} It was ", ("terrible", "great")), causal_tokenizer)


def test_closing_token_of_a_tokenizer_does_not_follow_the_prompt(
    masked_tokenizer: PreTrainedTokenizerFast,
) -> None:
    encoded = PromptEncoder(TASK, masked_tokenizer).encode([{"text": "a film", "label": 0}])
    assert encoded[0]["input_ids"][0] == masked_tokenizer.bos_token_id
    assert encoded[0]["input_ids"][-1] != masked_tokenizer.eos_token_id
