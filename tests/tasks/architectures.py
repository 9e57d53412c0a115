"""Tiny random models of each kind of architecture that people fine-tune, and a byte-level tokenizer for all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tests.tasks.library_rows import CASES
from zoft.tasks.task import ModelKind

SPECIAL = ["<pad>", "<s>", "</s>", "<mask>"]
POSITIONS = 512


@cache
def tokenizer_for(kind: ModelKind) -> hf.PreTrainedTokenizerFast:
    """Every label word is one token, with and without a space before it."""
    words = [option.strip() for case in CASES.values() for option in case.options if len(option.split()) == 1]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    corpus = [text for word in words for text in (word, f" {word}")] * 9
    backend.train_from_iterator([*corpus, *(case.prompt for case in CASES.values())], trainer)
    closed = {"causal": "$A", "masked": "<s> $A </s>", "seq2seq": "$A </s>"}[kind]
    backend.post_processor = processors.TemplateProcessing(single=closed, special_tokens=[("<s>", 1), ("</s>", 2)])
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        mask_token="<mask>",
        model_max_length=POSITIONS,
    )


_SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _opt(vocab: int) -> hf.PreTrainedModel:
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 2}
    return hf.OPTForCausalLM(
        hf.OPTConfig(
            vocab_size=vocab,
            num_attention_heads=4,
            max_position_embeddings=POSITIONS,
            init_std=0.2,
            **sizes,
            **_IDS,
        )
    )


def _llama(vocab: int) -> hf.PreTrainedModel:
    return hf.LlamaForCausalLM(
        hf.LlamaConfig(vocab_size=vocab, num_key_value_heads=2, initializer_range=0.2, **_SMALL, **_IDS)
    )


def _qwen2(vocab: int) -> hf.PreTrainedModel:
    return hf.Qwen2ForCausalLM(
        hf.Qwen2Config(vocab_size=vocab, num_key_value_heads=2, initializer_range=0.2, **_SMALL, **_IDS)
    )


def _qwen3(vocab: int) -> hf.PreTrainedModel:
    return hf.Qwen3ForCausalLM(
        hf.Qwen3Config(vocab_size=vocab, num_key_value_heads=2, head_dim=8, initializer_range=0.2, **_SMALL, **_IDS)
    )


def _gpt2(vocab: int) -> hf.PreTrainedModel:
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(
            vocab_size=vocab, n_embd=32, n_layer=2, n_head=4, n_positions=POSITIONS, initializer_range=0.2, **_IDS
        )
    )


def _roberta(vocab: int) -> hf.PreTrainedModel:
    return hf.RobertaForMaskedLM(
        hf.RobertaConfig(
            vocab_size=vocab, max_position_embeddings=POSITIONS + 2, initializer_range=0.2, **_SMALL, **_IDS
        )
    )


def _bert(vocab: int) -> hf.PreTrainedModel:
    return hf.BertForMaskedLM(
        hf.BertConfig(vocab_size=vocab, max_position_embeddings=POSITIONS, initializer_range=0.2, **_SMALL, **_IDS)
    )


def _t5(vocab: int) -> hf.PreTrainedModel:
    return hf.T5ForConditionalGeneration(
        hf.T5Config(
            vocab_size=vocab,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=2,
        )
    )


ARCHITECTURES: dict[str, tuple[ModelKind, Callable[[int], hf.PreTrainedModel]]] = {
    "opt": ("causal", _opt),
    "llama": ("causal", _llama),
    "qwen2": ("causal", _qwen2),
    "qwen3": ("causal", _qwen3),
    "gpt2": ("causal", _gpt2),
    "roberta": ("masked", _roberta),
    "bert": ("masked", _bert),
    "t5": ("seq2seq", _t5),
}


def make_model(name: str) -> hf.PreTrainedModel:
    """A model of its own for each test, in evaluation mode."""
    kind, make = ARCHITECTURES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(len(tokenizer_for(kind))).eval()
