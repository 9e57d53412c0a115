"""Adapters under ``batched``: the values of moved weights, from one forward; what cannot gain by it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import zoft
from tests.core.runs import digest
from tests.hf.test_adapters import CASES, adapted, loss_of, train
from zoft.errors import PlacementError

BEFORE_THE_LAYERS = ("prefix", "prompt")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*fan_in_fan_out:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*save_embedding_layers:UserWarning"),
]


def of_kinds(*, apart: bool) -> list[tuple[str, str]]:
    return [case for case in CASES if (case[1] in BEFORE_THE_LAYERS) == apart]


@pytest.mark.parametrize(("family", "kind"), of_kinds(apart=False))
def test_values_are_those_of_moved_adapters_and_layers_run_once(family: str, kind: str) -> None:
    model = adapted(family, kind).eval()
    loss = loss_of(model, family)
    config = {"method": "fzoo", "num_queries": 3, "zo_eps": 3e-2}
    batched, moved = (
        zoft.ZOOptimizer(model, 0.0, zoft.ZOConfig(**config, placement=placement)).engine
        for placement in ("batched", "snapshot")
    )
    batched.estimate(loss)
    before, rows = digest(model), []
    norm = next(m for m in model.modules() if "Norm" in type(m).__name__)
    handle = norm.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    got = batched.estimate(loss)
    handle.remove()
    assert set(rows) == {12}, "four points of three rows"
    want = moved.estimate(loss)
    assert got.loss == pytest.approx(want.loss, abs=2e-6)
    assert got.scalars == pytest.approx(want.scalars, abs=2e-4)
    assert max(map(abs, want.scalars)) > 2e-2
    assert digest(model) == before


@pytest.mark.parametrize(("family", "kind"), [("llama", "prefix"), ("gpt2", "prompt"), ("t5", "prefix")])
def test_what_acts_before_the_layers_is_refused(family: str, kind: str) -> None:
    model = adapted(family, kind).eval()
    config = zoft.ZOConfig(method="mezo", placement="batched")
    with pytest.raises(PlacementError, match=r"prompts and prefixes act before the model's layers.*'auto'"):
        zoft.ZOOptimizer(model, 0.0, config).step(loss_of(model, family))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_log_of_a_batched_run_replays_to_the_same_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    model, fresh = (adapted("llama", "lora", dtype) for _ in range(2))
    opt = train(model, "llama", tmp_path / "log", placement="batched", method="fzoo", num_queries=4)
    assert opt.engine.placement == "batched"
    assert digest(fresh) != digest(model)
    zoft.replay(fresh, tmp_path / "log")
    assert digest(fresh) == digest(model)
