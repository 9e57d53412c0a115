"""Directions have the same bits however they are cut: by blocks, rows, dtypes of the weights, or placement."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

import zoft
from tests.core.conftest import make
from tests.core.runs import start
from tests.methods import claims, plain_placement
from zoft.directions import DenseDirections, OrthonormalFactors
from zoft.method import build_method
from zoft.noise import Span, Term, blocks
from zoft.placement import stream as stream_module
from zoft.registry import method_names

TERMS = [Term(4, 0, 0.5), Term(4, 1, -0.25)]


def trained(name: str, dtype: torch.dtype = torch.float32) -> zoft.ZOOptimizer:
    """An optimizer after two steps, when directions that depend on what is kept no longer are plain noise."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"matrix": nn.Linear(13, 37), "stack": nn.Conv1d(3, 4, 5)}).to(dtype)
    options: dict[str, Any] = {"hizoo": {"alpha": 1e-2}, "conmezo": {"beta": 0.5}}.get(name, {})
    opt = zoft.ZOOptimizer(
        model, 1e-3, zoft.ZOConfig(method=name, method_kwargs=options, placement=plain_placement(name))
    )
    x = torch.randn(4, 13).to(dtype)
    for _ in range(2):
        opt.step(lambda: model["matrix"](x).pow(2).mean() + model["stack"].weight.pow(2).mean())
    return opt


def added(opt: zoft.ZOOptimizer, parameter: int, cuts: list[int], **options: Any) -> torch.Tensor:
    base = opt.engine.trainables[parameter].parameter.detach()
    out = torch.empty_like(base)
    edges = pairwise([0, *cuts, base.numel()])
    spans = [Span(out.view(-1)[a:b], base.view(-1)[a:b], parameter, a) for a, b in edges]
    opt.engine.directions.combine(spans, TERMS, **options)
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=["fp32", "bf16", "fp64"])
@pytest.mark.parametrize("name", method_names())
def test_any_cut_of_a_weight_gives_the_bits_of_the_whole(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    opt = trained(name, dtype)
    for parameter, trainable in enumerate(opt.engine.trainables):
        size = trainable.parameter.numel()
        for options in ({}, {"decay": 0.99, "rounding": "stochastic", "rounding_step": 3}):
            whole = added(opt, parameter, [], **options)
            assert parameter != 0 or not torch.equal(whole, trainable.parameter)  # a mask may hide a short vector
            assert torch.equal(added(opt, parameter, [size // 3, size // 3 + 1, size - 2], **options), whole)
            with monkeypatch.context() as patch:
                patch.setattr(blocks, "block_size", lambda device: 17)
                assert torch.equal(added(opt, parameter, [], **options), whole)


@pytest.mark.parametrize("name", method_names())
def test_rows_are_those_of_the_whole(name: str) -> None:
    opt = trained(name)
    base = opt.engine.trainables[0].parameter.detach()
    rows = torch.tensor([36, 0, 5, 5, 17])
    out = torch.empty(5, 13)
    opt.engine.directions.combine_rows(out, base, rows, 0, TERMS)
    assert torch.equal(out, added(opt, 0, [])[rows])
    opt.engine.directions.combine_rows(out[:0], base, rows[:0], 0, TERMS)


@pytest.mark.parametrize("name", method_names())
def test_streamed_blocks_of_rows_give_the_step_of_a_snapshot(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "_CPU_BLOCK_BYTES", 16 * 4 * 10)  # ten rows of width 16
    if not claims(name, "stream"):
        pytest.skip("refused by the method")
    records = []
    for placement in ("stream", "snapshot"):
        run = start(method=name, placement=placement).steps(0, 1)
        records.append(run.opt.last_record)
        assert run.opt.engine.placement == placement
    streamed, snapshot = records
    assert streamed is not None and snapshot is not None
    tolerance = 3e-6 / run.opt.engine.config.zo_eps**2  # curvatures divide the loss's last bits by zo_eps^2
    assert streamed.scalars == pytest.approx(snapshot.scalars, abs=tolerance)


@pytest.mark.parametrize("name", method_names())
def test_a_window_of_steps_shares_its_directions(name: str) -> None:
    if name == "grzo":
        with pytest.raises(zoft.errors.ConfigError, match="shared_vector='window:3' is not"):
            build_method(zoft.ZOConfig(method=name, shared_vector="window:3"))
        return
    torch.manual_seed(0)
    model = nn.Linear(13, 37)
    options = {"period": 1} if name in ("lozo", "lozo_m", "subzero", "subzero_plus") else {}

    def directions(shared_vector: str) -> list[torch.Tensor]:
        config = zoft.ZOConfig(method=name, shared_vector=shared_vector, method_kwargs=options)
        opt = zoft.ZOOptimizer(model, 1e-3, config)
        base = model.weight.detach()
        outs = [torch.empty_like(base) for _ in range(7)]
        for step, out in enumerate(outs):
            opt.engine.directions.combine([Span(out, base, 0)], [Term(step, 1, 0.5)])
        return outs

    each, three = directions("window:1"), directions("window:3")
    assert all(torch.equal(three[step], each[step // 3 * 3]) for step in range(7))
    assert not any(torch.equal(a, b) for a, b in pairwise(each))


@pytest.mark.parametrize("name", ["lozo", "lozo_m", "subzero", "subzero_plus"])
def test_what_lasts_for_a_period_lasts_for_whole_windows(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(13, 37)
    config = zoft.ZOConfig(name, shared_vector="window:3", method_kwargs={"period": 4, "rank": 2})
    opt = zoft.ZOOptimizer(model, 1e-3, config)
    spaces, directions = [], []
    for step in range(12):
        left, right = opt.engine.directions.factored(0, [Term(step, 0, 1.0)])
        spaces.append(right)
        directions.append(left @ right.T)
    assert all(torch.equal(directions[step], directions[step // 3 * 3]) for step in range(12))
    assert not any(torch.equal(a, b) for a, b in pairwise(directions[::3]))
    assert all(torch.equal(spaces[step], spaces[step // 6 * 6]) for step in range(12)), "6 is the next multiple of 3"
    assert not torch.equal(spaces[0], spaces[6])


@pytest.mark.parametrize("shape", [(2, 8), (4, 5), (3, 3), (8, 2)])
def test_bases_are_orthonormal_whatever_the_noise_inside_them(shape: tuple[int, int]) -> None:
    for seed in range(40):
        factors = OrthonormalFactors(DenseDirections(seed, "rademacher"), 24, 10)
        for basis in factors.bases(0, 0, torch.Size(shape)):
            eye = torch.eye(basis.shape[1])
            assert (basis.T @ basis - eye).abs().max() < 1e-6
        inner = factors.inner(Term(0, 0, 1.0), 0, torch.Size(shape))
        assert len(inner.abs().unique()) == 1, "signs"


@pytest.mark.parametrize(("sparsity", "moved"), [(0.0, 100), (0.5, 50), (0.7, 30), (0.95, 5), (0.99, 1), (0.999, 1)])
def test_a_mask_leaves_its_share_of_a_tensor_alone(sparsity: float, moved: int) -> None:
    model = nn.Linear(10, 10, bias=False)
    opt = zoft.ZOOptimizer(model, 1e-3, zoft.ZOConfig("sparse_mezo", method_kwargs={"sparsity": sparsity}))
    out = torch.empty_like(model.weight.data)
    opt.engine.directions.combine([Span(out, model.weight.data, 0)], TERMS)
    assert int((out != model.weight.data).sum()) == moved


def test_numbers_kept_for_sharded_weights_are_refused_where_directions_need_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("zoft.storage.Slot.is_sharded", True)
    for name in ("hizoo", "conmezo"):
        with pytest.raises(zoft.errors.ConfigError, match="is sharded over processes; use a method without"):
            zoft.ZOOptimizer(make("llama")[0], 1e-3, zoft.ZOConfig(method=name))


@pytest.mark.parametrize("shape", [(5, 0), (0, 5)])
@pytest.mark.parametrize("method", ["mezo", "lozo", "eggroll", "adam"])
def test_a_weight_without_elements_is_left_alone(method: str, shape: tuple[int, int]) -> None:
    model = nn.Linear(3, 2)
    model.register_parameter("empty", nn.Parameter(torch.zeros(shape)))
    opt = zoft.ZOOptimizer(model, 1e-2, zoft.ZOConfig(method=method, placement="snapshot"))
    before = model.weight.detach().clone()
    opt.step(lambda: model(torch.ones(1, 3)).sum() + model.get_parameter("empty").sum())
    assert not torch.equal(model.weight, before)
