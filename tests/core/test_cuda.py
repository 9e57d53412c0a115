"""A run on a GPU keeps the laws of a run on a CPU; its log replays to the same bits on either."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import zoft
from tests.core.conftest import make
from tests.core.runs import batch, digest
from tests.methods import claims
from zoft.registry import method_names

pytestmark = pytest.mark.gpu

STEPS = 3


@pytest.fixture(autouse=True, scope="module")
def same_products_each_time() -> Iterator[None]:
    """Losses that are compared must not differ by the order in which a GPU adds."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def loss_of(model: torch.nn.Module, ids: torch.Tensor, method: str) -> torch.Tensor:
    """Of each example where the method needs that."""
    logits = model(input_ids=ids).logits[:, :-1].float()
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").mean(1)
    return each if method == "grzo" else each.mean()


def trained(
    log: Path, method: str, dtype: torch.dtype, placement: str = "auto", style: str = "closure"
) -> tuple[torch.nn.Module, list[float]]:
    model, _ = make("llama", dtype)
    model.to("cuda")
    config = zoft.ZOConfig(method=method, zo_eps=1e-2, placement=placement)
    opt = zoft.ZOOptimizer(model, 1e-3, config, weight_decay=0.1, log=log)
    losses = []
    for step in range(STEPS):
        ids = batch(step).to("cuda")
        losses.append(float(opt.step(lambda ids=ids: loss_of(model, ids, method))))  # type: ignore[misc]
    return model, losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("method", method_names())
def test_a_gpus_log_replays_to_its_weights_on_a_cpu_and_on_a_gpu(
    method: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model, _ = trained(tmp_path / "log", method, dtype)
    expected = digest(model.cpu())
    for device in ("cpu", "cuda"):
        base, _ = make("llama", dtype)
        assert zoft.replay(base.to(device), tmp_path / "log") == STEPS
        assert digest(base.cpu()) == expected


@pytest.mark.parametrize("method", method_names())
def test_an_estimate_on_a_gpu_leaves_weights_bit_identical(method: str) -> None:
    model, _ = make("llama", torch.bfloat16)
    model.to("cuda")
    before = {name: p.clone() for name, p in model.named_parameters()}
    opt = zoft.ZOOptimizer(model, 0.0, zoft.ZOConfig(method=method, zo_eps=1e-2))
    ids = batch(0).to("cuda")
    opt.step(lambda: loss_of(model, ids, method))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("placement", ["stream", "snapshot", "batched"])
@pytest.mark.parametrize("method", ["mezo", "fzoo", "lozo"])
def test_losses_on_a_gpu_are_those_of_a_cpu(method: str, placement: str, tmp_path: Path) -> None:
    assert claims(method, placement)
    _, on_gpu = trained(tmp_path / "gpu", method, torch.float32, placement)
    on_cpu = []
    model, _ = make("llama")
    opt = zoft.ZOOptimizer(model, 1e-3, zoft.ZOConfig(method=method, zo_eps=1e-2), weight_decay=0.1)
    for step in range(STEPS):
        ids = batch(step)
        on_cpu.append(float(opt.step(lambda ids=ids: model(input_ids=ids, labels=ids).loss)))  # type: ignore[misc]
    assert on_gpu == pytest.approx(on_cpu, rel=1e-3)


def test_ids_outside_an_embedding_are_refused_on_a_gpu() -> None:
    """In a process of its own: an assertion on the device makes it useless afterwards."""
    import subprocess
    import sys

    code = """
import torch, zoft
from tests.core.conftest import make
model, _ = make("llama")
model.to("cuda")
opt = zoft.ZOOptimizer(model, 1e-3, zoft.ZOConfig(method="mezo", placement="stream"))
good, bad = torch.tensor([[1, 2, 3]], device="cuda"), torch.tensor([[1, 10**6, 3]], device="cuda")
opt.step(lambda: model(input_ids=good, labels=good).loss)
opt.step(lambda: model(input_ids=bad, labels=good).loss)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "assert" in done.stderr
