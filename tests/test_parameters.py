"""Which parameters are trained, under which number, and what a wrong selection says."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from zoft.errors import ConfigError
from zoft.parameters import select


class Tied(nn.Module):
    """An embedding that is also the output matrix, and two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.body = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight


ALL = [
    "embed.weight",
    "body.0.weight",
    "body.0.bias",
    "body.1.weight",
    "body.1.bias",
    "norm.weight",
    "norm.bias",
]


def names(*args: object, **kwargs: object) -> list[str]:
    return [t.name for t in select(*args, **kwargs)]  # type: ignore[arg-type]


def test_all_that_require_a_gradient_are_selected_in_the_models_order_and_numbered_from_zero() -> None:
    model = Tied()
    trainables = select(model)
    assert [t.name for t in trainables] == ALL == [name for name, _ in model.named_parameters()]
    assert [t.number for t in trainables] == list(range(len(ALL)))
    assert all(t.parameter is model.get_parameter(t.name) for t in trainables)


def test_tied_weights_are_one_entry() -> None:
    model = Tied()
    assert sum(t.parameter is model.embed.weight for t in select(model)) == 1


@pytest.mark.parametrize("pattern", ["embed.weight", "head.weight", "head*"])
def test_a_tied_weight_matches_by_any_of_its_names_and_keeps_its_first(pattern: str) -> None:
    assert names(Tied(), include=[pattern]) == ["embed.weight"]
    assert names(Tied(), exclude=[pattern]) == ALL[1:]


def test_frozen_parameters_are_left_alone_and_do_not_take_a_number() -> None:
    model = Tied()
    model.embed.requires_grad_(False)
    assert [(t.number, t.name) for t in select(model)] == list(enumerate(ALL[1:]))


def test_include_and_exclude_are_shell_patterns_and_exclude_wins() -> None:
    assert names(Tied(), include=["*norm*"]) == ["norm.weight", "norm.bias"]
    assert names(Tied(), include=["body.?.weight"]) == ["body.0.weight", "body.1.weight"]
    assert names(Tied(), include=["body.[1]*", "norm.bias"]) == ["body.1.weight", "body.1.bias", "norm.bias"]
    assert names(Tied(), include=["body*"], exclude=["*.bias"]) == ["body.0.weight", "body.1.weight"]
    assert names(Tied(), include=["body*"], exclude=["body.0*"]) == ["body.1.weight", "body.1.bias"]


def test_patterns_match_case() -> None:
    with pytest.raises(ConfigError, match="matches no parameter"):
        select(Tied(), include=["*Norm*"])


@pytest.mark.parametrize("which", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_an_error_that_suggests_a_name(which: str) -> None:
    with pytest.raises(ConfigError, match=re.escape("'norm.wieght' matches no parameter. Did you mean 'norm.weight'?")):
        select(Tied(), **{which: ["norm.wieght"]})
    with pytest.raises(ConfigError, match=r"Names look like 'embed\.weight'; patterns are shell-style"):
        select(Tied(), **{which: ["zzz"]})


def test_a_pattern_may_match_frozen_parameters_only_if_others_are_left() -> None:
    model = Tied()
    model.norm.requires_grad_(False)
    assert names(model, include=["norm*", "body.0.bias"]) == ["body.0.bias"]
    with pytest.raises(ConfigError, match=r"no parameter is left to train: include=\['norm\*'\].* 5 of 7 require"):
        select(model, include=["norm*"])


def test_excluding_everything_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no parameter is left to train"):
        select(Tied(), exclude=["*"])


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e5m2], ids=str)
def test_a_dtype_that_cannot_be_trained_is_an_error_that_says_how_to_exclude_it(dtype: torch.dtype) -> None:
    model = Tied()
    model.body[0].weight = nn.Parameter(torch.zeros(4, 4).to(dtype))
    with pytest.raises(ConfigError, match=rf"body\.0\.weight has dtype {dtype}.*exclude=\['body\.0\.weight'\]"):
        select(model)
    assert "body.0.weight" not in names(model, exclude=["body.0.weight"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_floats_of_16_32_and_64_bits_are_trained(dtype: torch.dtype) -> None:
    assert names(Tied().to(dtype)) == ALL
