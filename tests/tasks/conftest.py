"""Tiny random models of four architectures, and byte-level tokenizers trained on the spot."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

CORPUS = [
    "a film that is terrible from start to end",
    "a great film with a great cast",
    "Overall, the movie was great",
    "Overall, the movie was terrible",
    "It was terrible. It was great. It was rather good.",
] * 4

ROWS = [
    {"text": "a film with a cast", "label": 0},
    {"text": "great", "label": 1},
    {"text": "from start to end it is rather good, and then it is not", "label": 1},
]


def _byte_level_bpe(special_tokens: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@pytest.fixture(scope="session")
def causal_tokenizer() -> PreTrainedTokenizerFast:
    """Like GPT-2's: no padding token, nothing added around a text."""
    return PreTrainedTokenizerFast(tokenizer_object=_byte_level_bpe(["<eos>"]), eos_token="<eos>")


@pytest.fixture(scope="session")
def masked_tokenizer() -> PreTrainedTokenizerFast:
    """Like RoBERTa's: a mask token, and a token at each end."""
    tokenizer = _byte_level_bpe(["<pad>", "<s>", "</s>", "<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        mask_token="<mask>",
        model_max_length=64,
    )


def _llama(vocab_size: int) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config)


def _gpt2(vocab_size: int) -> PreTrainedModel:
    config = GPT2Config(vocab_size=vocab_size, n_embd=32, n_layer=2, n_head=4, n_positions=96, initializer_range=0.2)
    return GPT2LMHeadModel(config)


def _opt(vocab_size: int) -> PreTrainedModel:
    config = OPTConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=96,
        init_std=0.2,
    )
    return OPTForCausalLM(config)


CAUSAL_MODELS: dict[str, Callable[[int], PreTrainedModel]] = {"llama": _llama, "gpt2": _gpt2, "opt": _opt}


@pytest.fixture(params=list(CAUSAL_MODELS))
def causal_model(request: pytest.FixtureRequest, causal_tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CAUSAL_MODELS[request.param](len(causal_tokenizer)).eval()


@pytest.fixture
def llama(causal_tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _llama(len(causal_tokenizer)).eval()


@pytest.fixture
def masked_model(masked_tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    config = BertConfig(
        vocab_size=len(masked_tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BertForMaskedLM(config).eval()


@pytest.fixture
def rows() -> list[dict[str, object]]:
    return [dict(row) for row in ROWS]
