"""Noise specification, version 1: which number stands at which address.

A random number in zoft is a pure function of ``(key, step, query, parameter, element)``. This file
holds the constants of that function and the arithmetic on addresses; ``docs/noise.md`` says the same in
prose, exactly enough to re-implement it. Every backend returns bit-identical values for it.

Generator: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
Gaussian: Box and Muller (1958) with polynomials of our own, evaluated in IEEE float32 without
contraction, so that any conforming machine gives the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch

from zoft.errors import ConfigError

NOISE_SPEC_VERSION = 1

# --- Philox4x32-10 -------------------------------------------------------------------------------------
PHILOX_M0 = 0xD2511F53
PHILOX_M1 = 0xCD9E8D57
PHILOX_W0 = 0x9E3779B9
PHILOX_W1 = 0xBB67AE85
PHILOX_ROUNDS = 10

# --- Layout of elements over counters ------------------------------------------------------------------
# A tile is what LANES consecutive counters produce; lanes are innermost so that SIMD code writes runs.
LANES = 32
WORDS = 4
GAUSSIAN_TILE = LANES * WORDS * 2  # a 32-bit word makes two Gaussian values, or two 16-bit rounding draws
RADEMACHER_TILE = LANES * WORDS * 32  # a bit makes one Rademacher value

# --- Counter fields ------------------------------------------------------------------------------------
PURPOSE_DIRECTION = 0
PURPOSE_ROUNDING = 1
MAX_STEP = 2**32 - 1
MAX_QUERY = 2**24 - 1
MAX_PARAMETER = 2**24 - 1
MAX_BLOCK = 2**40 - 1

# --- Gaussian pair from one word w ---------------------------------------------------------------------
# w = j (12 bits, signed) | k (18 bits) | two sign bits.   u = (2k + 1) / 2^19,   theta = (j + 0.5) * pi / 8192
# r = sqrt(-2 ln u);   z_low = +- r (cos - sin) / sqrt 2,   z_high = +- r (cos + sin) / sqrt 2
# float32 constants, as bits. The polynomials are minimax fits, short because a grid of 18 and 12 bits asks for no
# more; the last two carry a common factor of 1 + 3e-7 that makes the variance over all words 1. The logarithm's is
# evaluated in pairs of terms, the others by Horner.
LOG_SPLIT_BITS = 0x3F3504F3  # sqrt(1/2): mantissas are taken in [sqrt(1/2), sqrt(2))
LOG_POLY_BITS = (0xBFFFFDC9, 0x3F7FB7FF, 0xBF2C3B28, 0x3F0AB96F, 0xBEB4D189)  # -2 ln(1 + m) / m
SIN_POLY_BITS = (0x3F3504E6, 0xBDF14C6F, 0x3BBCE09A)  # sin(t) / (sqrt(2) t) in t^2
COS_POLY_BITS = (0x3F350481, 0xBEB4E9EA, 0x3CEA036E)  # cos(t) / sqrt(2) in t^2
MINUS_TWO_LN2_BITS = 0xBFB17218
ANGLE_STEP_BITS = 0x39C90FDB  # pi / 8192
MAX_ABS_GAUSSIAN = 5.14  # largest magnitude that the spec can return, rounded up

Distribution = Literal["gaussian", "rademacher"]
DISTRIBUTIONS: tuple[Distribution, ...] = ("gaussian", "rademacher")
Rounding = Literal["nearest", "stochastic"]
ROUNDINGS: tuple[Rounding, ...] = ("nearest", "stochastic")


class Term(NamedTuple):
    """One scaled direction, ``coefficient * z(step, query)``."""

    step: int
    query: int
    coefficient: float


class Span(NamedTuple):
    """A contiguous run of one parameter: where to read, where to write, and where it lies in the whole.

    Attributes:
        out: Tensor written to, any shape, contiguous.
        base: Tensor read, same shape and dtype, contiguous; may be ``out`` itself.
        parameter: The parameter's number in the run's parameter table.
        start: Flat (row-major) index, within the whole parameter, of the first element.
    """

    out: torch.Tensor
    base: torch.Tensor
    parameter: int
    start: int = 0


def negated(terms: Sequence[Term]) -> list[Term]:
    """Return the same directions with opposite coefficients."""
    return [Term(step, query, -coefficient) for step, query, coefficient in terms]


def run_key(seed: int) -> int:
    """Return the 64-bit Philox key of a run.

    Args:
        seed: Any integer in ``[0, 2**64)``. Zero is a seed like any other.

    Raises:
        ConfigError: If the seed is out of range or not an integer.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise ConfigError(f"seed must be an integer in [0, 2**64), got {seed!r}.")
    digest = hashlib.sha256(b"zoft noise v1" + seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest[:8], "little")


def compute_dtype(weight: torch.Tensor) -> torch.dtype:
    """Return the precision that sums over a weight are computed in: float32, float64 for float64 weights."""
    return torch.float64 if weight.dtype is torch.float64 else torch.float32


def check_distribution(name: str | None) -> Distribution:
    """Return the name of a distribution.

    Raises:
        ConfigError: If there is none of that name.
    """
    for known in DISTRIBUTIONS:
        if name == known:
            return known
    raise ConfigError(f"distribution must be one of {', '.join(DISTRIBUTIONS)}, got {name!r}.")


def counter_words(purpose: int, step: int, query: int, parameter: int) -> tuple[int, int, int]:
    """Return Philox counter words 1, 2, 3 of an address; word 0 is the block's low half.

    The block's high 8 bits are added to word 1 (bits 24 to 31) by the caller.

    Raises:
        ConfigError: If a field exceeds its range.
    """
    for name, value, top in (
        ("step", step, MAX_STEP),
        ("query", query, MAX_QUERY),
        ("parameter", parameter, MAX_PARAMETER),
    ):
        if not 0 <= value <= top:
            raise ConfigError(f"noise address: {name} must be in [0, {top}], got {value}.")
    return parameter, step, query | purpose << 24


def check_addresses(terms: Sequence[Term], parameters: Iterable[int], rounding_step: int) -> None:
    """Raise ConfigError when an address of one call is out of range."""
    for term in terms:
        counter_words(PURPOSE_DIRECTION, term.step, term.query, 0)
    for parameter in parameters:
        counter_words(PURPOSE_ROUNDING, rounding_step, 0, parameter)
