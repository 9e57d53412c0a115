"""What is trained on, and the loss, are those of TRL's ``SFTTrainer``."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl import SFTConfig, SFTTrainer

from tests.hf.conftest import arguments
from tests.tasks.chats import ROWS, TURNS, with_template
from tests.tasks.placed import placed
from zoft.tasks.conversation_encoding import ConversationEncoder
from zoft.tasks.conversations import ConversationReader
from zoft.tasks.token_scoring import conversation_losses

# Name: the rows, and whether only what assistants say is trained on.
CASES: dict[str, tuple[list[dict[str, Any]], bool]] = {
    **{name: (rows, False) for name, rows in ROWS.items()},
    "messages, assistants only": (ROWS["messages"], True),
    "conversational prompt-completion, assistants only": ([{"prompt": TURNS[:1], "completion": TURNS[1:]}], True),
    "tools": (
        [{"messages": TURNS, "tools": json.dumps([{"type": "function", "function": {"name": "look"}}])}],
        False,
    ),
}


def qwen3(vocab_size: int) -> PreTrainedModel:
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Qwen3ForCausalLM(config).eval()


@pytest.mark.parametrize("max_length", [512, 40])
@pytest.mark.parametrize("case", list(CASES))
def test_the_trained_tokens_and_the_loss_of_a_row_are_trls(
    case: str,
    max_length: int,
    llama: PreTrainedModel,
    causal_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    rows, assistant_only = CASES[case]
    tokenizer = with_template(causal_tokenizer)
    model = qwen3(len(tokenizer)) if case == "messages" else llama
    reader = ConversationReader(assistant_only=assistant_only)
    encoder = ConversationEncoder(tokenizer, max_length, assistant_only=assistant_only)
    encoded = encoder.encode(placed(map(reader, rows)))
    trainer = SFTTrainer(
        model=copy.deepcopy(model),
        args=arguments(tmp_path, kind=SFTConfig, bf16=False, max_length=max_length, assistant_only_loss=assistant_only),
        train_dataset=Dataset.from_list(rows),
        processing_class=copy.deepcopy(tokenizer),
    )
    trainer.model.eval()
    theirs = list(trainer.train_dataset)
    assert len(encoded) == len(theirs)
    assert len(encoded) + encoded.left_out == len(rows)
    for mine, other in zip(encoded.examples, theirs, strict=True):
        assert mine["input_ids"] == other["input_ids"]
        # The first token is predicted from nothing, so that TRL's label there is never looked at.
        assert mine["trained"] == [i for i, label in enumerate(other["labels"]) if label != -100 and i > 0]
        with torch.no_grad():
            got = conversation_losses(model, encoder.collator()([mine]))
            want = trainer.compute_loss(trainer.model, trainer.data_collator([other]))
        torch.testing.assert_close(got, want[None], rtol=1e-5, atol=1e-6)
