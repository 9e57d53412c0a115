"""Law 1: only ``apply`` changes a weight for good."""

from __future__ import annotations

import hashlib
import signal

import pytest
import torch
from torch import nn

import zoft
from tests.core.conftest import make, take_units
from tests.methods import claims, methods
from zoft.errors import NonFiniteLossError

EXACT = ("stream", "snapshot", "auto", "batched")


def digest(model: nn.Module) -> str:
    sha = hashlib.sha256()
    for _, tensor in sorted(model.state_dict().items()):
        sha.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def optimizer(model: nn.Module, placement: str = "stream", lr: float = 0.0, **options: object) -> zoft.ZOOptimizer:
    config = zoft.ZOConfig(**{"method": "mezo", "placement": placement, "zo_eps": 1e-2, **options})  # type: ignore[arg-type]
    return zoft.ZOOptimizer(model, lr=lr, config=config)


@pytest.mark.filterwarnings("ignore:.*trained, but the loss does not depend:zoft.ZoftWarning")
@pytest.mark.parametrize("placement", EXACT)
def test_step_with_lr_zero_leaves_weights_bit_identical(family: str, dtype: torch.dtype, placement: str) -> None:
    model, loss = make(family, dtype)
    before = digest(model)
    opt = optimizer(model, placement)
    for _ in range(2):
        assert torch.isfinite(opt.step(loss))
    assert digest(model) == before


@pytest.mark.parametrize("placement", EXACT)
@pytest.mark.parametrize("method", methods())
def test_a_loss_that_raises_midway_leaves_weights_bit_identical(method: str, placement: str) -> None:
    model, loss = make("gpt2", torch.bfloat16)
    if not claims(method, placement):
        pytest.skip("refused by the method")
    opt = optimizer(model, placement, lr=1e-3, method=method, num_queries=2)
    opt.step(loss)
    before, calls = digest(model), 0

    def second_call_raises() -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("out of cheese")
        return loss()

    with pytest.raises(RuntimeError, match="cheese"):
        opt.step(second_call_raises)
    assert digest(model) == before
    assert model.training and all(m.training for m in model.modules())
    opt.step(loss)
    assert digest(model) != before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("placement", [*EXACT, "stream, units"])
def test_an_exception_inside_a_module_leaves_weights_bit_identical(
    placement: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    if placement == "stream, units":  # as on a GPU
        take_units(monkeypatch)
        placement = "stream"
    model, loss = make("llama", torch.float16)
    opt = optimizer(model, placement)
    opt.step(loss)
    before, armed = digest(model), True

    def bomb(*_: object) -> None:
        if armed:
            raise error("in mid-forward")

    # After the second layer's own attention weights were swapped in, and inside its forward.
    handle = model.model.layers[1].mlp.act_fn.register_forward_pre_hook(bomb)
    with pytest.raises(error):
        opt.step(loss)
    handle.remove()
    armed = False
    assert digest(model) == before
    assert not any("forward" in module.__dict__ for module in model.modules())


@pytest.mark.parametrize("placement", EXACT)
def test_ctrl_c_in_mid_forward_leaves_weights_bit_identical(placement: str) -> None:
    model, loss = make("bert")
    opt = optimizer(model, placement)
    opt.step(loss)
    before = digest(model)
    handle = model.bert.encoder.layer[1].register_forward_pre_hook(lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        opt.step(loss)
    handle.remove()
    assert digest(model) == before


def test_inplace_restores_float32_to_rounding() -> None:
    model, loss = make("llama")
    before = [p.detach().clone() for p in model.parameters()]
    opt = optimizer(model, "inplace")
    for _ in range(10):
        opt.step(loss)
    for old, new in zip(before, model.parameters(), strict=True):
        assert (old - new).norm() <= 1e-5 * old.norm() + 1e-7


def test_inplace_on_16_bit_weights_is_refused_without_force() -> None:
    model, loss = make("llama", torch.bfloat16)
    with pytest.raises(zoft.ZoftError, match="force"):
        optimizer(model, "inplace")
    optimizer(model, "inplace", force=True).step(loss)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("placement", EXACT)
def test_a_non_finite_loss_stops_the_run_and_leaves_weights_bit_identical(placement: str, bad: float) -> None:
    model, loss = make("llama")
    before = digest(model)
    opt = optimizer(model, placement, lr=1e-3)
    opt.step(loss)
    before, calls = digest(model), 0

    def second_is_bad() -> torch.Tensor:
        nonlocal calls
        calls += 1
        return loss() if calls == 1 else torch.tensor(bad)

    with pytest.raises(NonFiniteLossError, match=r"loss_minus.*step 1.*nonfinite='skip'"):
        opt.step(second_is_bad)
    assert digest(model) == before


def test_skipping_a_non_finite_loss_is_recorded_and_moves_nothing() -> None:
    model, loss = make("llama")
    opt = optimizer(model, lr=1e-3, nonfinite="skip")
    opt.step(loss)
    before = digest(model)
    opt.step(lambda: torch.tensor(float("nan")))
    assert opt.last_record is not None and opt.last_record.skipped
    assert digest(model) == before
    opt.step(loss)
    assert opt.engine.step == 3 and digest(model) != before


def test_frozen_and_excluded_parameters_are_never_touched() -> None:
    model, loss = make("llama")
    model.model.embed_tokens.weight.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    opt = optimizer(model, lr=1e-2, include=("*.layers.*", "*embed*"), exclude=("*norm*",))
    for _ in range(3):
        opt.step(loss)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if ".layers." in name and "norm" not in name}


def test_no_gradient_and_no_optimizer_state_is_ever_kept() -> None:
    model, loss = make("llama")
    opt = optimizer(model, lr=1e-3)
    opt.step(loss)
    assert all(p.grad is None for p in model.parameters())
    assert not opt.state


def test_dropout_is_off_during_evaluations_and_modes_come_back() -> None:
    model, _ = make("llama")
    model.dropout = nn.Dropout(0.9)
    model.model.norm.eval()
    seen: list[bool] = []

    def loss() -> torch.Tensor:
        seen.append(model.training or model.dropout.training)
        return model.dropout(model.lm_head.weight).pow(2).mean()

    opt = optimizer(model, "snapshot")
    opt.step(loss)
    assert not any(seen)
    assert model.training and model.dropout.training and not model.model.norm.training


def test_batch_statistics_of_a_resnet_do_not_move() -> None:
    model, loss = make("resnet")
    before = {name: b.clone() for name, b in model.named_buffers()}
    optimizer(model, lr=1e-3).step(loss)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name
