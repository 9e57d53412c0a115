"""Tiny models of several families, with random weights, and a loss closure for each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from zoft.placement import StreamPlacement

VOCABULARY = 96
LossFn = Callable[[], torch.Tensor]


def take_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``stream`` perturb modules together where they fit into its scratch, as on a GPU."""
    monkeypatch.setattr(
        StreamPlacement, "unit_bytes", lambda self, device: self._scratch_bytes if self._may_have_units else 0
    )


def _ids(rows: int = 3, length: int = 7) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))


def _llama() -> nn.Module:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config)


def _gpt2() -> nn.Module:
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2
    )
    return GPT2LMHeadModel(config)


def _opt() -> nn.Module:
    config = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
    )
    return OPTForCausalLM(config)


def _bert() -> nn.Module:
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
    )
    return BertForMaskedLM(config)


def _t5() -> nn.Module:
    config = T5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    return T5ForConditionalGeneration(config)


def _resnet() -> nn.Module:
    config = ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    return ResNetForImageClassification(config)


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "llama": _llama,
    "gpt2": _gpt2,
    "opt": _opt,
    "bert": _bert,
    "t5": _t5,
    "resnet": _resnet,
}


def loss_of(model: nn.Module, family: str) -> LossFn:
    """A deterministic loss on one fixed batch."""
    dtype = next(model.parameters()).dtype
    if family == "resnet":
        pixels = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(2)).to(dtype)
        return lambda: model(pixel_values=pixels, labels=torch.tensor([0, 1, 2, 0])).loss
    ids = _ids()
    return lambda: model(input_ids=ids, labels=ids).loss


def make(family: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[nn.Module, LossFn]:
    """A tiny model of a family in training mode, with its loss."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = FAMILIES[family]().to(dtype).train()
    return model, loss_of(model, family)


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    assert isinstance(request.param, torch.dtype)
    return request.param
