"""Weights that Accelerate keeps in RAM or in files: trained where they lie, with the bits of a plain run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from torch import nn

import zoft
from tests.core.conftest import make
from tests.core.runs import batch
from tests.methods import claims, methods
from zoft.errors import ConfigError
from zoft.replay_log import fingerprint

METHODS = methods()
CPU = torch.device("cpu")
FAMILIES = ["llama", "gpt2", "opt", "bert", "t5"]
UNTIED = ["llama"]  # the others tie their heads to their embeddings


def in_ram(model: nn.Module, folder: Path) -> None:
    cpu_offload(model, execution_device=CPU)


def in_files(model: nn.Module, folder: Path) -> None:
    disk_offload(model, str(folder), execution_device=CPU)


def in_ram_by_blocks(model: nn.Module, folder: Path) -> None:
    """One hook fetches all that is inside a block."""
    cpu_offload(model, execution_device=CPU, preload_module_classes=["LlamaDecoderLayer"])


def everywhere(model: nn.Module, folder: Path) -> None:
    """A device map: the embedding stays, one layer is in RAM, one in files."""
    device_map = {
        "model.embed_tokens": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "cpu",
    }
    dispatch_model(model, device_map, main_device="cpu", offload_dir=str(folder), force_hooks=True)


def train(
    family: str,
    offload: Callable[[nn.Module, Path], None] | None,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    **config: str,
) -> tuple[nn.Module, str]:
    model, _ = make(family, dtype)
    if offload is not None:
        offload(model, folder / "weights")
    opt = zoft.ZOOptimizer(
        model,
        1e-2,
        zoft.ZOConfig(**{"method": "mezo", "zo_eps": 1e-2, "num_queries": 2, **config}),  # type: ignore[arg-type]
        weight_decay=0.1,
        log=folder / ("zo_log" if offload is None else "zo_log_offloaded"),
    )
    for step in range(3):
        ids = batch(step)
        opt.step(lambda ids=ids: model(input_ids=ids, labels=ids).loss)  # type: ignore[misc]
    return model, opt.engine.placement


@pytest.mark.filterwarnings("ignore:placement 'inplace' restores weights only up to rounding")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("placement", ["stream", "snapshot", "inplace"])
@pytest.mark.parametrize("family", FAMILIES)
def test_offloaded_weights_train_to_the_bits_of_the_others(
    family: str, placement: str, method: str, tmp_path: Path
) -> None:
    if not claims(method, placement):
        pytest.skip("refused by the method")
    plain, _ = train(family, None, tmp_path, method=method, placement=placement)
    offloaded, used = train(family, in_ram, tmp_path, method=method, placement=placement)
    assert used == placement
    assert next(offloaded.parameters()).is_meta, "the weights are where they were"
    assert fingerprint(offloaded) == fingerprint(plain)
    assert (tmp_path / "zo_log").read_bytes() == (tmp_path / "zo_log_offloaded").read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("placement", ["auto", "snapshot"])
@pytest.mark.parametrize("offload", [in_files, in_ram_by_blocks, everywhere])
def test_wherever_they_are_kept(
    offload: Callable[[nn.Module, Path], None], placement: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    plain, _ = train("llama", None, tmp_path, dtype, placement=placement)
    offloaded, used = train("llama", offload, tmp_path, dtype, placement=placement)
    assert used == ("stream" if placement == "auto" else placement)
    assert fingerprint(offloaded) == fingerprint(plain)


def test_the_trained_weights_are_in_the_files(tmp_path: Path) -> None:
    trained, _ = train("llama", in_files, tmp_path)
    again, _ = make("llama", seed=1)
    disk_offload(again, str(tmp_path / "weights"), execution_device=CPU)
    assert fingerprint(again) == fingerprint(trained)


def test_a_log_replays_on_offloaded_weights(tmp_path: Path) -> None:
    plain, _ = train("gpt2", None, tmp_path)
    base, _ = make("gpt2")
    cpu_offload(base, execution_device=CPU)
    zoft.replay(base, tmp_path / "zo_log")
    assert fingerprint(base) == fingerprint(plain)


def test_tied_weights_in_two_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is tied to transformer.wte.weight, but was offloaded to disk"):
        train("gpt2", in_files, tmp_path)


def test_a_checkpoint_is_not_trained_in_place(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    make("llama")[0].save_pretrained(tmp_path / "checkpoint")  # type: ignore[operator]
    model = LlamaForCausalLM.from_pretrained(
        tmp_path / "checkpoint",
        device_map={"model": "disk", "lm_head": "cpu"},
        offload_folder=str(tmp_path / "offload"),
    )
    with pytest.raises(ConfigError, match=r"is offloaded to .*safetensors, the checkpoint itself"):
        zoft.ZOOptimizer(model, 1e-2)


def _with_adapter(model: nn.Module) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))


def test_adapters_are_trained_when_all_is_offloaded() -> None:
    trained = []
    for offloaded in (False, True):
        model = _with_adapter(make("llama")[0])
        if offloaded:
            cpu_offload(model, execution_device=CPU)
        opt = zoft.ZOOptimizer(model, 1e-2, zoft.ZOConfig(method="mezo", zo_eps=1e-2))
        for step in range(3):
            ids = batch(step)
            opt.step(lambda model=model, ids=ids: model(input_ids=ids, labels=ids).loss)  # type: ignore[misc]
        trained.append(fingerprint(model))
    assert trained[0] == trained[1]


def test_an_adapter_without_numbers_is_refused(tmp_path: Path) -> None:
    """PEFT makes adapters of offloaded layers on the device "meta", and a forward then reads whatever is there."""
    base, _ = make("llama")
    in_files(base, tmp_path)
    with pytest.raises(ConfigError, match=r"Linear \[2, 16\] is on the device 'meta'.*make the adapter first"):
        zoft.ZOOptimizer(_with_adapter(base), 1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("placement", ["stream", "snapshot"])
def test_weights_in_ram_train_on_the_gpu_as_weights_on_the_gpu_do(placement: str) -> None:
    """The kernels of the two devices return the same bits, so where an update is made does not show."""
    trained = []
    for offloaded in (False, True):
        model, _ = make("llama")
        if offloaded:
            cpu_offload(model, execution_device=torch.device("cuda"))
        else:
            model.to("cuda")
        opt = zoft.ZOOptimizer(
            model, 1e-2, zoft.ZOConfig(method="mezo", zo_eps=1e-2, num_queries=2, placement=placement)
        )
        for step in range(3):
            ids = batch(step).to("cuda")
            opt.step(lambda model=model, ids=ids: model(input_ids=ids, labels=ids).loss)  # type: ignore[misc]
        trained.append(fingerprint(model))
    assert trained[0] == trained[1]
