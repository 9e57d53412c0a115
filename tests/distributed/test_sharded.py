"""Weights sharded over processes (FSDP2, tensor parallel): each perturbs and updates its own part of one z."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from transformers import LlamaForCausalLM

import zoft
from tests.core.conftest import make
from tests.core.runs import batch
from tests.distributed.ranks import fail_ranks, run_ranks
from tests.distributed.test_replicas import mean_loss
from tests.methods import methods
from zoft.replay_log import ReplayLog, fingerprint

METHODS = methods("mezo", "fzoo")
REFUSALS = {  # and in which words
    "hizoo": "is sharded over processes; use a method without",
    "conmezo": "is sharded over processes; use a method without",
    "grzo": "is sharded or offloaded. Use a method with one direction",
    "forward_grad": "is sharded or offloaded. Use a method that only evaluates the loss",
}
BLOCKS = {"llama": "model.layers", "gpt2": "transformer.h", "bert": "bert.encoder.layer"}


def shard(model: nn.Module, family: str, kind: str) -> None:
    """Cut a model's weights over all processes."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    blocks: Any = model.get_submodule(BLOCKS[family])
    if kind == "tensor parallel":
        plan = {"gate_proj": ColwiseParallel(), "up_proj": ColwiseParallel(), "down_proj": RowwiseParallel()}
        for block in blocks:
            parallelize_module(block.mlp, mesh, plan)
        return
    options = {"mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16)} if kind == "fsdp in bf16" else {}
    for module in (*blocks, model):
        fully_shard(module, mesh=mesh, **options)  # type: ignore[arg-type]


def train(
    log: str,
    family: str,
    kind: str,
    dtype: torch.dtype = torch.float64,
    steps: int = 3,
    include: tuple[str, ...] = (),
    **config: Any,
) -> tuple[dict[str, str], str]:
    """Steps over 6 rows each, of which each process sees its part; returns the whole weights' hashes."""
    model, _ = make(family, dtype)
    zo = zoft.ZOConfig(**{"method": "mezo", "zo_eps": 1e-2, "num_queries": 2, "include": include, **config})
    if kind == "optimizer, then fsdp":
        opt = zoft.ZOOptimizer(model, 1e-2, zo, weight_decay=0.1)
        shard(model, family, kind)
    else:
        if kind != "whole":
            shard(model, family, kind)
        opt = zoft.ZOOptimizer(model, 1e-2, zo, weight_decay=0.1)
    if Path(log).exists():
        opt.resume_log(log)
    else:
        opt.start_log(log)
    parts = 1 if kind == "tensor parallel" else opt.replicas.data_size
    for step in range(steps):
        rows = batch(step, 6).chunk(parts)[opt.replicas.data_rank % parts]
        opt.step(lambda rows=rows: mean_loss(model, rows))  # type: ignore[misc]
    opt.close_log()
    assert not any(p.grad is not None for p in model.parameters()) and not opt.state
    return fingerprint(model), opt.engine.placement


def _train(log: str, family: str, kind: str, options: dict[str, Any]) -> Any:
    return train(log, family, kind, **options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("family", "kind", "processes"),
    [
        ("llama", "fsdp", 2),
        ("llama", "optimizer, then fsdp", 2),
        ("llama", "tensor parallel", 2),
        ("gpt2", "fsdp", 2),  # the head is tied to the embedding
        ("bert", "fsdp", 3),  # 16 rows over three processes: 6, 6 and 4
    ],
)
def test_shards_together_are_the_weights_of_one_process(
    family: str, kind: str, processes: int, method: str, tmp_path: Path
) -> None:
    case = (str(tmp_path / "shards"), family, kind, {"method": method})
    refusal = REFUSALS.get(method)
    if refusal:
        failures = fail_ranks(processes, _train, *case)
        assert all(refusal in text for _, text in failures), failures
        return
    want, _ = train(str(tmp_path / "whole"), family, "whole", method=method)
    results = run_ranks(processes, _train, *case)
    assert results == [(want, "snapshot")] * processes
    assert (tmp_path / "shards").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_sharded_runs_log_replays_on_the_whole_model(dtype: torch.dtype, tmp_path: Path) -> None:
    """Rounding is by the element's number in the whole weight, so shards round as the whole does."""
    log = str(tmp_path / "zo_log")
    results = run_ranks(2, _train, log, "llama", "fsdp", {"dtype": dtype})
    base, _ = make("llama", dtype)
    zoft.replay(base, log)
    assert [weights for weights, _ in results] == [fingerprint(base)] * 2


def test_a_run_goes_on_from_whole_to_sharded_weights_and_back(tmp_path: Path) -> None:
    want, _ = train(str(tmp_path / "whole"), "llama", "whole", steps=6)
    log = str(tmp_path / "zo_log")
    train(log, "llama", "whole", steps=2)
    run_ranks(2, _train, log, "llama", "fsdp", {"steps": 4})
    weights, _ = train(log, "llama", "whole", steps=6)
    assert weights == want
    assert Path(log).read_bytes() == (tmp_path / "whole").read_bytes()


def test_some_of_the_sharded_weights_can_be_trained(tmp_path: Path) -> None:
    options: dict[str, Any] = {"include": ("*mlp*",)}
    want, _ = train(str(tmp_path / "whole"), "llama", "whole", **options)
    results = run_ranks(2, _train, str(tmp_path / "shards"), "llama", "fsdp", options)
    assert [weights for weights, _ in results] == [want] * 2


def test_sharded_float32_weights_compute_in_bfloat16(tmp_path: Path) -> None:
    """FSDP's mixed precision: the perturbation is made in float32, before the cast."""
    options: dict[str, Any] = {"dtype": torch.float32, "zo_eps": 5e-2}
    train(str(tmp_path / "whole"), "llama", "whole", **options)
    run_ranks(2, _train, str(tmp_path / "shards"), "llama", "fsdp in bf16", options)
    (whole, *_), (mine, *_) = (ReplayLog.open(tmp_path / name).records for name in ("whole", "shards"))
    assert mine.scalars == pytest.approx(whole.scalars, abs=0.1)
    assert mine.scalars != whole.scalars


def test_stream_is_refused_for_shards(tmp_path: Path) -> None:
    failures = fail_ranks(2, _train, str(tmp_path / "zo_log"), "llama", "fsdp", {"placement": "stream"})
    assert all("does not go with weights that are sharded" in text for _, text in failures), failures


def _loaded(folder: str, log: str, **options: Any) -> tuple[dict[str, str], bool]:
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64, **options)
    opt = zoft.ZOOptimizer(model, 1e-2, zoft.ZOConfig(method="mezo", zo_eps=1e-2, num_queries=2), log=log)
    for step in range(3):
        rows = batch(step)
        opt.step(lambda rows=rows: mean_loss(model, rows))  # type: ignore[misc]
    opt.close_log()
    return fingerprint(model), any(t.slot.is_sharded for t in opt.engine.trainables)


def _loaded_sharded(folder: str, log: str) -> tuple[dict[str, str], bool]:
    return _loaded(folder, log, tp_plan="auto")


def test_a_model_loaded_by_transformers_tensor_parallel_plan_trains_as_a_whole_one(tmp_path: Path) -> None:
    make("llama")[0].save_pretrained(tmp_path / "model")  # type: ignore[operator]
    want, _ = _loaded(str(tmp_path / "model"), str(tmp_path / "whole"))
    results = run_ranks(2, _loaded_sharded, str(tmp_path / "model"), str(tmp_path / "shards"))
    assert results == [(want, True)] * 2
    assert (tmp_path / "shards").read_bytes() == (tmp_path / "whole").read_bytes()
