"""Accelerate's FSDP2 plugin under ``ZOTrainer``.

Accelerate offers FSDP to accelerators only. Its state is told here that the gloo processes are such; everything
after that, sharding included, is Accelerate's and PyTorch's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import zoft
from tests.core.conftest import make
from tests.distributed.ranks import fail_ranks, run_ranks
from tests.distributed.test_trainer import ZOInDouble
from tests.hf.conftest import arguments, rows
from zoft.hf.checks import refuse
from zoft.replay_log import fingerprint

BLOCKS = {"llama": "LlamaDecoderLayer", "gpt2": "GPT2Block"}


def trainer_over_shards(folder: str, family: str, per_rank: int, **changes: Any) -> Any:
    config = {"version": 2, "transformer_layer_cls_to_wrap": [BLOCKS[family]]}
    args = arguments(
        Path(folder), per_device_train_batch_size=per_rank, max_steps=4, fsdp=True, fsdp_config=config, **changes
    )
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    assert args.device.type == "cpu"  # makes the state
    PartialState().distributed_type = DistributedType.MULTI_HPU
    return trainer_over(args, family)


def trainer_over(args: Any, family: str) -> Any:
    model, _ = make(family, torch.float64)
    return ZOInDouble(
        model=model, args=args, zo=zoft.ZOConfig(method="mezo", zo_eps=1e-2, num_queries=2), train_dataset=rows()
    )


def sharded(folder: str, family: str) -> tuple[dict[str, str], str, str]:
    trainer = trainer_over_shards(folder, family, 4)
    trainer.train()
    kinds = {type(p).__name__ for p in trainer.model.parameters()}
    trainer.save_model(f"{folder}/final")
    return fingerprint(trainer.model), trainer.zo_engine.placement, "/".join(kinds)


def alone(folder: str, family: str) -> dict[str, str]:
    trainer = trainer_over(arguments(Path(folder), per_device_train_batch_size=8, max_steps=4), family)
    trainer.train()
    trainer.save_model(f"{folder}/final")
    return fingerprint(trainer.model)


@pytest.mark.parametrize("family", BLOCKS)
def test_a_run_over_shards_is_the_run_of_one_process(family: str, tmp_path: Path) -> None:
    """GPT-2's head is tied to its embedding."""
    (want,) = run_ranks(1, alone, str(tmp_path / "one"), family)
    results = run_ranks(2, sharded, str(tmp_path / "two"), family)
    assert results == [(want, "snapshot", "DTensor")] * 2
    assert (tmp_path / "two" / "zo_log").read_bytes() == (tmp_path / "one" / "zo_log").read_bytes()
    whole, saved = (load_file(tmp_path / run / "final" / "model.safetensors") for run in ("one", "two"))
    assert all(torch.equal(saved.pop(name), whole[name]) for name in whole)
    # FSDP shows no ties to save_pretrained, which then writes the tied head too.
    assert all(torch.equal(tied, whole["transformer.wte.weight"]) for tied in saved.values())


def checkpointing(folder: str) -> None:
    trainer_over_shards(folder, "llama", 4, save_strategy="steps")


def with_fsdp1(folder: str) -> None:
    trainer = trainer_over_shards(folder, "llama", 4)
    # Its plugin cannot be made without an accelerator.
    trainer.accelerator.state.fsdp_plugin.fsdp_version = 1
    refuse(trainer, trainer.zo)


@pytest.mark.parametrize(("asked", "message"), [(checkpointing, "save_only_model=True"), (with_fsdp1, "Use FSDP2")])
def test_what_shards_cannot_do_is_said_at_the_start(asked: Any, message: str, tmp_path: Path) -> None:
    failures = fail_ranks(2, asked, str(tmp_path))
    assert [name for name, _ in failures] == ["ConfigError"] * 2, failures
    assert all(message in text for _, text in failures), failures
