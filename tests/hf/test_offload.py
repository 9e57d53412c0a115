"""Trainer over weights that Accelerate keeps in RAM or in files: trained, saved and loaded as any others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from torch import nn
from transformers import LlamaForCausalLM

from tests.core.conftest import make
from tests.hf.conftest import trainer_of
from zoft.replay_log import fingerprint

CPU = torch.device("cpu")
OFFLOADED: dict[str, Any] = {
    "cpu_offload": lambda model, folder: cpu_offload(model, execution_device=CPU),
    "disk_offload": lambda model, folder: disk_offload(model, folder, execution_device=CPU),
    "dispatch_model": lambda model, folder: dispatch_model(
        model, {"model": "cpu", "lm_head": "cpu"}, main_device="cpu", force_hooks=True
    ),
}


def run(folder: Path, model: nn.Module) -> dict[str, str]:
    trainer = trainer_of(folder, model=model, save_strategy="steps", save_steps=4, max_steps=6)
    trainer.train()
    trainer.save_model(str(folder / "final"))
    return fingerprint(model)


@pytest.mark.filterwarnings("ignore:Attempting to save a model with offloaded modules:UserWarning")
@pytest.mark.parametrize("kind", OFFLOADED)
def test_an_offloaded_model_trains_and_is_saved_like_another(kind: str, tmp_path: Path) -> None:
    plain, _ = make("llama")
    want = run(tmp_path / "plain", plain)
    model, _ = make("llama")
    OFFLOADED[kind](model, str(tmp_path / "weights"))
    assert run(tmp_path / "offloaded", model) == want
    assert (tmp_path / "offloaded" / "zo_log").read_bytes() == (tmp_path / "plain" / "zo_log").read_bytes()
    for folder, steps in (("final", want), ("checkpoint-4", None)):
        saved = fingerprint(LlamaForCausalLM.from_pretrained(tmp_path / "offloaded" / folder))
        assert saved == (steps or fingerprint(LlamaForCausalLM.from_pretrained(tmp_path / "plain" / folder)))
