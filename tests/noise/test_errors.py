"""Addresses out of range and tensors that noise cannot serve are errors that say which and why."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from zoft import noise
from zoft.errors import ConfigError
from zoft.noise import Span, Term, cpu, reference, spec

KEY = noise.run_key(0)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "0", None, True])
def test_a_seed_out_of_range_is_an_error_that_shows_it(seed: Any) -> None:
    with pytest.raises(ConfigError, match=rf"seed must be an integer in .* got {re.escape(repr(seed))}"):
        noise.run_key(seed)


def test_all_seeds_in_range_have_keys_of_their_own() -> None:
    seeds = [0, 1, 2, 2**32, 2**63, 2**64 - 1]
    assert len({noise.run_key(seed) for seed in seeds}) == len(seeds)


@pytest.mark.parametrize("backend", [reference, cpu], ids=["reference", "cpu"])
@pytest.mark.parametrize(
    ("field", "top"),
    [
        ("step", spec.MAX_STEP),
        ("query", spec.MAX_QUERY),
        ("parameter", spec.MAX_PARAMETER),
        ("rounding_step", spec.MAX_STEP),
    ],
)
def test_an_address_out_of_range_is_an_error_that_names_the_field(backend: Any, field: str, top: int) -> None:
    def combine(value: int) -> None:
        address = {"step": 0, "query": 0, "parameter": 0, "rounding_step": 0, field: value}
        out = torch.zeros(3, dtype=torch.bfloat16)
        backend.combine(
            [Span(out, out, address["parameter"])], [Term(address["step"], address["query"], 1.0)],
            key=KEY, distribution="gaussian", rounding="stochastic", rounding_step=address["rounding_step"],
        )  # fmt: skip

    combine(top)
    name = field.removeprefix("rounding_")
    for value in (-1, top + 1):
        with pytest.raises(ConfigError, match=rf"{name} must be in \[0, {top}\], got {value}"):
            combine(value)


@pytest.mark.parametrize("backend", [reference, cpu], ids=["reference", "cpu"])
def test_rows_check_their_address_too(backend: Any) -> None:
    out, base, rows = torch.zeros(1, 4), torch.zeros(2, 4), torch.tensor([1])
    for parameter, term, name in (
        (spec.MAX_PARAMETER + 1, Term(0, 0, 1.0), "parameter"),
        (0, Term(-1, 0, 1.0), "step"),
    ):
        with pytest.raises(ConfigError, match=f"{name} must be in"):
            backend.combine_rows(out, base, rows, parameter, [term], key=KEY, distribution="gaussian")


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn], ids=str
)
def test_a_dtype_that_noise_cannot_serve_is_an_error_that_names_it(dtype: torch.dtype) -> None:
    out = torch.zeros(3, dtype=dtype)
    with pytest.raises(ConfigError, match=f"got {dtype}.*Exclude this parameter"):
        noise.combine([Span(out, out, 0)], [Term(0, 0, 1.0)], key=KEY, distribution="gaussian")
    rows = torch.zeros(2, 2, dtype=dtype)
    with pytest.raises(ConfigError, match=f"got {dtype}"):
        noise.combine_rows(rows, rows, torch.tensor([0, 1]), 0, [Term(0, 0, 1.0)], key=KEY, distribution="gaussian")


def test_a_failed_call_has_written_nothing() -> None:
    good, bad = torch.zeros(5), torch.zeros(5)
    for backend in (reference, cpu):
        with pytest.raises(ConfigError):
            backend.combine(
                [Span(bad, bad, spec.MAX_PARAMETER + 1), Span(good, good, 0)], [Term(0, 0, 1.0)],
                key=KEY, distribution="gaussian",
            )  # fmt: skip
        assert not good.any() and not bad.any()


def test_an_unknown_distribution_is_an_error_that_lists_the_known_ones() -> None:
    weights = torch.zeros(4)
    with pytest.raises(ConfigError, match="gaussian, rademacher, got 'normal'"):
        noise.combine([Span(weights, weights, 0)], [Term(0, 0, 1.0)], key=KEY, distribution="normal")  # type: ignore[arg-type]
