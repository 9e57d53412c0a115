"""A compiled model trains as the plain one: what torch.compile made calls no module that could be watched."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import zoft
from tests.core.conftest import VOCABULARY, make

INPUTS = torch.randint(3, VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(1))


def losses_of(model: nn.Module) -> torch.Tensor:
    logits = model(input_ids=INPUTS).logits[:, :-1]
    return nn.functional.cross_entropy(logits.transpose(1, 2), INPUTS[:, 1:], reduction="none").mean(1)


def scalars(model: nn.Module, config: dict[str, Any]) -> list[tuple[float, ...]]:
    """Of three steps."""
    opt = zoft.ZOOptimizer(model, 1e-3, zoft.ZOConfig(**{"method": "mezo", "zo_eps": 1e-2, **config}))
    found = []
    for _ in range(3):
        opt.step(lambda: losses_of(model) if config.get("method") == "grzo" else losses_of(model).mean())
        assert opt.last_record is not None
        found.append(opt.last_record.scalars)
    return found


def whole(model: nn.Module) -> nn.Module:
    compiled = torch.compile(model, backend="eager")
    assert isinstance(compiled, nn.Module)
    return compiled


def in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


@pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning")  # hooks that watch all modules fire once more
@pytest.mark.parametrize("compiled", [pytest.param(whole, marks=pytest.mark.slow), in_place])
@pytest.mark.parametrize(
    "config",
    [
        pytest.param({}, id="stream"),
        pytest.param({"placement": "snapshot"}, id="snapshot"),
        pytest.param({"placement": "inplace"}, id="inplace", marks=pytest.mark.slow),
        pytest.param({"method": "grzo"}, id="flipout", marks=pytest.mark.slow),
        pytest.param({"method": "forward_grad"}, id="dual", marks=pytest.mark.slow),
    ],
)
def test_a_compiled_model_gives_the_estimates_of_the_plain_one(
    config: dict[str, Any], compiled: Callable[[nn.Module], nn.Module]
) -> None:
    plain, other = make("llama")[0], make("llama")[0]
    expected = scalars(plain, config)
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error", zoft.ZoftWarning)
        found = scalars(compiled(other), config)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-3), "float32's last places, over zo_eps"
