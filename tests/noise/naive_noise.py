"""The noise specification, written from ``docs/noise.md`` alone, one element at a time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np

LOG = (0xBFFFFDC9, 0x3F7FB7FF, 0xBF2C3B28, 0x3F0AB96F, 0xBEB4D189)
SIN = (0x3F3504E6, 0xBDF14C6F, 0x3BBCE09A)
COS = (0x3F350481, 0xBEB4E9EA, 0x3CEA036E)

Term = tuple[int, int, float]  # step, query, coefficient


def key_of(seed: int) -> int:
    digest = hashlib.sha256(b"zoft noise v1" + seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest[:8], "little")


def philox(counter: Sequence[int], key: Sequence[int]) -> tuple[int, int, int, int]:
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 % 2**32, (p0 >> 32) ^ c3 ^ k1, p0 % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def word_at(block: int, word: int, purpose: int, step: int, query: int, parameter: int, key: int) -> int:
    counter = (block % 2**32, parameter + (block >> 32) * 2**24, step, query + purpose * 2**24)
    return philox(counter, (key % 2**32, key >> 32))[word]


def as_float(bits: int) -> np.float32:
    return np.array(bits, np.uint32).view(np.float32)[()]


def as_bits(value: np.float32) -> int:
    return int(np.array(value, np.float32).view(np.uint32))


def horner(poly: Sequence[int], x: np.float32) -> np.float32:
    value = as_float(poly[-1])
    for bits in poly[-2::-1]:
        value = value * x + as_float(bits)
    return value


def gaussian_pair(w: int) -> tuple[np.float32, np.float32]:
    k = (w >> 2) % 2**18
    b = (as_bits(np.float32(2 * k + 1)) - 0x3F3504F3) % 2**32
    e = np.float32((b >> 23) - 19)
    m = as_float((b & 0x7FFFFF) + 0x3F3504F3) - np.float32(1.0)
    p0, p1, p2, p3, p4 = (as_float(bits) for bits in LOG)
    p = (p0 + p1 * m) + (m * m) * ((p2 + p3 * m) + p4 * (m * m))
    r = np.sqrt((e * as_float(0xBFB17218)) + (p * m))
    j = w >> 20
    t = (np.float32(j - 4096 if j >= 2048 else j) + np.float32(0.5)) * as_float(0x39C90FDB)
    y = t * t
    s = horner(SIN, y) * t
    c = horner(COS, y)
    low, high = r * (c - s), r * (c + s)
    return (-low if w & 1 else low), (-high if w & 2 else high)


def _pair_word(element: int, purpose: int, step: int, query: int, parameter: int, key: int) -> tuple[int, int]:
    block = element // 256 * 32 + element % 32
    return word_at(block, element % 256 // 64, purpose, step, query, parameter, key), element // 32 % 2


def gaussian(element: int, step: int, query: int, parameter: int, key: int) -> np.float32:
    word, half = _pair_word(element, 0, step, query, parameter, key)
    return gaussian_pair(word)[half]


def rademacher(element: int, step: int, query: int, parameter: int, key: int) -> np.float32:
    block = element // 4096 * 32 + element % 32
    word = word_at(block, element % 4096 // 1024, 0, step, query, parameter, key)
    return np.float32(-1.0 if word >> (element // 32 % 32) & 1 else 1.0)


Z = {"gaussian": gaussian, "rademacher": rademacher}


def draw(element: int, rounding_step: int, parameter: int, key: int) -> int:
    word, half = _pair_word(element, 1, rounding_step, 0, parameter, key)
    return word >> 16 if half else word & 0xFFFF


def to_bfloat16(value: np.float32) -> int:
    """Nearest, ties to even, for values that are not NaN: compare with the two neighbours' distances."""
    bits = as_bits(value)
    below, rest = bits >> 16, bits & 0xFFFF
    return below + (rest > 0x8000 or (rest == 0x8000 and below & 1))


def to_binary16(value: np.float32) -> int:
    with np.errstate(over="ignore"):
        return int(np.array(value, np.float32).astype(np.float16).view(np.uint16))


def to_bfloat16_stochastic(value: np.float32, d: int) -> int:
    return ((as_bits(value) + d) % 2**32) >> 16


def to_binary16_stochastic(value: np.float32, d: int) -> int:
    if abs(value) >= 2.0**-14:
        return to_binary16(as_float(((as_bits(value) + (d >> 3)) % 2**32) & 0xFFFFE000))
    scaled = abs(float(value)) * 2.0**24
    units = math.floor(scaled)
    up = d < (scaled - units) * 65536.0
    return (units + up) | (0x8000 if math.copysign(1.0, value) < 0 else 0)  # so subnormals are laid out


def combine_32(
    x: np.float32,
    element: int,
    parameter: int,
    terms: Sequence[Term],
    distribution: str,
    decay: float,
    key: int,
) -> np.float32:
    total = np.float32(0.0)
    for step, query, coefficient in terms:
        total = total + np.float32(coefficient) * Z[distribution](element, step, query, parameter, key)
    return x * np.float32(decay) + total


def combine_64(
    x: float, element: int, parameter: int, terms: Sequence[Term], distribution: str, decay: float, key: int
) -> float:
    total = 0.0
    for step, query, coefficient in terms:
        total = total + coefficient * float(Z[distribution](element, step, query, parameter, key))
    return x * decay + total
