"""A configuration that cannot work is an error where it is written."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from zoft.errors import ConfigError
from zoft.types import NONFINITE_POLICIES, PLACEMENTS, ZOConfig


def test_defaults_are_valid_and_leave_the_method_its_own() -> None:
    config = ZOConfig()
    assert (config.zo_eps, config.num_queries, config.distribution) == (None, None, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("zo_eps", 0.0),
        ("zo_eps", -1e-3),
        ("zo_eps", float("nan")),
        ("zo_eps", float("inf")),
        ("zo_eps", "1e-3"),
        ("zo_eps", True),
        ("num_queries", 0),
        ("num_queries", -1),
        ("num_queries", 1.0),
        ("num_queries", True),
        ("scratch_mib", 0),
        ("scratch_mib", 0.5),
        ("batched_tokens", 0),
        ("query_parallel_size", 0),
        ("replica_check_steps", 0),
        ("placement", "memory"),
        ("nonfinite", "ignore"),
        ("force", "yes"),
        ("shared_vector", "window:0"),
        ("shared_vector", "windows:3"),
        ("shared_vector", 3),
    ],
)
def test_a_value_out_of_range_is_an_error_that_names_it_and_shows_it(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} must be .*got {re.escape(repr(value))}\.$"):
        ZOConfig(**{name: value})


@pytest.mark.parametrize("name", ["include", "exclude"])
def test_one_pattern_as_a_string_is_an_error_not_a_list_of_letters(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} must be a sequence of patterns, got the string '\*norm\*'"):
        ZOConfig(**{name: "*norm*"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "hint"), [("mezo", r"method=\.\.\."), ({"zo_eps": 1}, r"\*\*\.\.\."), (1e-3, r"\.\.\.")]
)
def test_what_is_no_configuration_is_refused_with_what_to_write(config: Any, hint: str) -> None:
    with pytest.raises(ConfigError, match=rf"must be a ZOConfig, got .*; write ZOConfig\({hint}\)\."):
        ZOConfig.of(config)
    assert ZOConfig.of(None) == ZOConfig()


def test_every_stated_placement_and_policy_is_accepted() -> None:
    for placement in PLACEMENTS:
        assert ZOConfig(placement=placement).placement == placement
    for policy in NONFINITE_POLICIES:
        assert ZOConfig(nonfinite=policy).nonfinite == policy


def test_an_integer_is_a_perturbation_scale_too() -> None:
    assert ZOConfig(zo_eps=1).zo_eps == 1


def test_a_configuration_cannot_be_changed_not_even_through_what_it_was_made_from() -> None:
    include, options = ["a"], {"x": 1}
    config = ZOConfig(include=include, method_kwargs=options)  # type: ignore[arg-type]
    include.append("b")
    options["x"] = 2
    assert config.include == ("a",)
    assert dict(config.method_kwargs) == {"x": 1}
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.method_kwargs["x"] = 3  # type: ignore[index]


def test_to_dict_survives_json_and_gives_an_equal_configuration() -> None:
    config = ZOConfig(
        method="mezo", zo_lr="auto", zo_eps=1e-4, num_queries=8, seed=2**64 - 1, distribution="rademacher",
        shared_vector="window:4", placement="snapshot",
        include=("*norm*",), exclude=("*bias",), nonfinite="skip", scratch_mib=5, batched_tokens=6,
        query_parallel_size=2, replica_check_steps=7, force=True, method_kwargs={"beta": 0.5},
    )  # fmt: skip
    values = json.loads(json.dumps(config.to_dict()))
    assert values.keys() == {field.name for field in dataclasses.fields(ZOConfig)}
    assert ZOConfig(**values) == config
    changed = [f.name for f in dataclasses.fields(ZOConfig) if values[f.name] == ZOConfig().to_dict()[f.name]]
    assert changed == []  # every field was tried with a value of its own
