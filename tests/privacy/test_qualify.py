"""Every method either takes private steps that replay to the bit, or is refused with a reason and what to use."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM, SwitchTransformersConfig
from transformers import SwitchTransformersForConditionalGeneration as SwitchTransformers

import zoft
from tests.core.conftest import VOCABULARY, make
from tests.core.runs import batch, digest
from tests.privacy.linear import plan
from zoft.errors import ConfigError
from zoft.method import build_method
from zoft.privacy.qualify import check_model, private_config, qualifying, why_not
from zoft.registry import method_names
from zoft.replay_log import ReplayLog

QUALIFYING = qualifying()
OTHERS = [name for name in method_names() if name not in QUALIFYING]


@pytest.fixture(scope="module", autouse=True)
def _one_thread_more_or_less() -> None:
    torch.set_num_threads(1)


def test_the_field_s_usual_methods_qualify() -> None:
    assert {"mezo", "momentum", "adam", "sign", "lozo", "fzoo", "svrg"} <= set(QUALIFYING)
    assert {"grzo", "forward_grad", "hizoo", "es"} <= set(OTHERS)


@pytest.mark.parametrize("name", OTHERS)
def test_a_method_that_cannot_be_private_is_refused_with_a_reason(name: str) -> None:
    reason = why_not(build_method(zoft.ZOConfig(method=name)))
    assert reason is not None
    with pytest.raises(ConfigError, match=re.escape(reason)) as refused:
        private_config(zoft.ZOConfig(method=name))
    assert f"method {name!r}" in str(refused.value)
    assert f"These can: {', '.join(QUALIFYING)}." in str(refused.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", QUALIFYING)
def test_private_steps_replay_to_the_bit_from_the_log_alone(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Over six steps, one of them with an empty batch, on a tiny model with a matrix and vectors."""
    model, before = small(dtype), digest(small(dtype))
    config = zoft.ZOConfig(method=name, zo_eps=1e-2, seed=3)
    planned = plan(num_scalars=build_method(config).estimator.num_scalars, noise_multiplier=0.5)
    opt = zoft.ZOOptimizer(model, 1e-2, config, weight_decay=0.1, privacy=planned, log=tmp_path / "zo_log")
    for step in range(6):
        opt.step([lambda x=x: model(x).square().mean() for x in inputs(step, dtype)])  # type: ignore[misc]
    assert digest(model) != before
    opt.close_log()
    again = small(dtype)
    assert zoft.replay(again, tmp_path / "zo_log") == 6
    assert digest(again) == digest(model)
    log = ReplayLog.open(tmp_path / "zo_log")
    assert log.intents == 6
    assert all(any(record.scalars) and not record.skipped for record in log.records), "noise, also without examples"


def small(dtype: torch.dtype) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 2)).to(dtype)


def inputs(step: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(0 if step == 2 else 4, 6, generator=generator).to(dtype)


def test_a_language_model_trains_privately_and_replays(tmp_path: Path) -> None:
    model, _ = make("llama")
    opt = zoft.ZOOptimizer(
        model, 1e-3, zoft.ZOConfig(method="mezo", num_queries=2), privacy=plan(num_scalars=2), log=tmp_path / "zo_log"
    )
    for step in range(3):
        ids = batch(step)[:, None]  # examples of one row each
        opt.step([lambda x=x: model(input_ids=x, labels=x).loss for x in ids])  # type: ignore[misc]
    opt.close_log()
    again, _ = make("llama")
    zoft.replay(again, tmp_path / "zo_log")
    assert digest(again) == digest(model)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"zo_lr": "auto"}, "zo_lr='auto'"),
        ({"query_parallel_size": 2, "num_queries": 2}, "query_parallel_size=2"),
        ({"placement": "stream"}, "placement='stream'"),
        ({"placement": "inplace"}, "placement='inplace'"),
        ({"shared_vector": "example", "num_queries": 8}, "shared_vector='example'"),
    ],
)
def test_settings_that_cannot_be_private_are_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(named)):
        private_config(zoft.ZOConfig(**{"method": "mezo", **settings}))


def test_a_plan_for_another_number_of_scalars_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"num_scalars=2; method 'mezo' releases 3"):
        zoft.ZOOptimizer(
            small(torch.float32),
            1e-3,
            zoft.ZOConfig(method="mezo", num_queries=3),
            privacy=plan(num_scalars=2),
            log=tmp_path / "log",
        )


# --- models -----------------------------------------------------------------------------------------------


def mixtral() -> nn.Module:
    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
    )
    return MixtralForCausalLM(config)


def switch_transformers() -> nn.Module:
    config = SwitchTransformersConfig(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_sparse_encoder_layers=1,
        num_decoder_layers=2,
        num_sparse_decoder_layers=1,
        num_heads=2,
        num_experts=2,
        expert_capacity=2,
        decoder_start_token_id=0,
    )
    return SwitchTransformers(config)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (lambda: make("resnet")[0], r"normalization is a BatchNorm2d"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), r"^1 is a BatchNorm1d"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.SyncBatchNorm(2)), r"^1 is a SyncBatchNorm"),
        (mixtral, r"mlp\S* is a Mixtral\w+"),
        (switch_transformers, r"mlp\S* is a SwitchTransformers\w+"),
    ],
    ids=["resnet", "BatchNorm1d", "SyncBatchNorm", "Mixtral", "SwitchTransformers"],
)
def test_a_model_that_couples_examples_is_refused_by_the_modules_name(model: Any, named: str, tmp_path: Path) -> None:
    made = model()
    with pytest.raises(ConfigError, match=named):
        check_model(made)
    with pytest.raises(ConfigError, match=named):
        zoft.ZOOptimizer(made, 1e-3, privacy=plan(), log=tmp_path / "log")
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "bert", "t5"])
def test_models_of_single_examples_are_not_refused(family: str) -> None:
    check_model(make(family)[0])
