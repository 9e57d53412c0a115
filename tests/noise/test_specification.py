"""docs/noise.md, an implementation written from it, and both backends say the same."""

from __future__ import annotations

import re
from pathlib import Path

import naive_noise as naive
import numpy as np
import pytest
import torch
from noise_checks import assert_same_bits, bits

from zoft import noise
from zoft.noise import Span, Term, cpu, reference, spec

ADDRESS = {"step": 5, "query": 2, "parameter": 3}
BACKENDS = {"reference": reference, "cpu": cpu}
# Ends and starts of lanes, halves, words and tiles of both layouts, and counters beyond 32 bits.
ELEMENTS = sorted(
    {0, 1, 1_000_003, 2**37 - 1, 2**37, 2**40 + 5, 2**43 - 1}
    | {edge + off for edge in (32, 64, 256, 1024, 4096, 8192) for off in (-1, 0, 1)}
)
PHILOX_KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627E8D5 E169C58D BC57AC4C 9B00DBD8"),
    ("FFFFFFFF FFFFFFFF FFFFFFFF FFFFFFFF", "FFFFFFFF FFFFFFFF", "408F276D 41C83B0E A20BC7C6 6D5451FD"),
    ("243F6A88 85A308D3 13198A2E 03707344", "A4093822 299F31D0", "D16CFE09 94FDCCEB 5001E420 24126EA1"),
]


def hexes(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def patterns(tensor: torch.Tensor) -> str:
    width = 2 * tensor.element_size()
    return " ".join(f"{value % 16**width:0{width}X}" for value in bits(tensor).tolist())


@pytest.fixture(scope="module")
def page() -> str:
    return (Path(__file__).parents[2] / "docs" / "noise.md").read_text()


@pytest.mark.parametrize(("counter", "key", "words"), PHILOX_KNOWN_ANSWERS)
def test_philox_gives_its_authors_known_answers(counter: str, key: str, words: str) -> None:
    k0, k1 = hexes(key)
    got = reference.philox(tuple(torch.tensor([c]) for c in hexes(counter)), k0 | k1 << 32)
    assert [int(word) for word in got] == hexes(words)
    assert list(naive.philox(hexes(counter), (k0, k1))) == hexes(words)


@pytest.mark.parametrize(
    ("seed", "key"),
    [
        (0, 0x3DFAF80709655820),
        (1, 0x8EDD7912466D6E66),
        (42, 0xFA3D3BC7D2AD10E4),
        (2**64 - 1, 0x16D23C1D2BB109C9),
    ],
)
def test_keys_are_pinned(seed: int, key: int) -> None:
    assert noise.run_key(seed) == key == naive.key_of(seed)


@pytest.mark.parametrize(
    ("word", "low", "high"),
    [
        (0x00000000, 0x406835E9, 0x40684CB7),
        (0x7FF00003, 0xBA852304, 0xC0A43B6A),
        (0x80000000, 0x40A43B6A, 0x3A852304),
        (0xFFFFFFFF, 0xBAB50CA1, 0xBAB4FADB),
        (0x12345678, 0x3F810210, 0x3FA1A28A),
        (0xDEADBEEF, 0xBEEBE46A, 0xBE9AD1F8),
    ],
)
def test_gaussian_pairs_are_pinned(word: int, low: int, high: int) -> None:
    got = reference.gaussian_from_word(torch.tensor([word, word]), torch.tensor([False, True]))
    assert patterns(got) == f"{low:08X} {high:08X}"
    assert [naive.as_bits(value) for value in naive.gaussian_pair(word)] == [low, high]


@pytest.mark.parametrize(
    ("element", "pattern"),
    [
        (0, "BFB75294"), (1, "3E57C07A"), (31, "BE4D57D3"), (32, "BE501072"), (64, "3F337BFF"),
        (255, "BCAA493C"), (256, "3FA79FD2"), (1_000_003, "BF3CEA6F"), (2**32, "BCCDEF7E"),
        (2**43 - 1, "BEB31234"),
    ],
)  # fmt: skip
def test_gaussian_values_are_pinned(element: int, pattern: str) -> None:
    z = noise.sample(1, **ADDRESS, key=noise.run_key(0), distribution="gaussian", start=element)
    assert patterns(z) == pattern


def test_rademacher_values_are_pinned() -> None:
    def sample(count: int, start: int) -> list[float]:
        return noise.sample(count, **ADDRESS, key=noise.run_key(0), distribution="rademacher", start=start).tolist()

    assert sample(8, 0) == [-1, 1, -1, 1, 1, -1, 1, 1]
    assert sample(1, 32) == [-1]
    assert sample(2, 1023) == [1, 1]
    assert sample(2, 4095) == [-1, 1]
    assert sample(1, 2**43 - 1) == [1]


def test_rounding_draws_are_pinned() -> None:
    elements = torch.tensor([0, 1, 31, 32, 64, 255, 256, 2**43 - 1])
    draws = reference.rounding_bits(elements, parameter=3, step=5, key=noise.run_key(0))
    assert draws.tolist() == hexes("78DD 000A 30F5 E854 92A9 E3B3 E926 E813")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("dtype", "rounding", "expected"),
    [
        (torch.float32, "nearest", "3F2694CF 3E3BCC90 3D3519D0 3F99A210"),
        (torch.float32, "stochastic", "3F2694CF 3E3BCC90 3D3519D0 3F99A210"),
        (torch.bfloat16, "nearest", "3F27 3E3C 3D35 3F9A"),
        (torch.bfloat16, "stochastic", "3F26 3E3C 3D35 3F9A"),
        (torch.float16, "nearest", "3935 31DE 29A9 3CCD"),
        (torch.float16, "stochastic", "3934 31DF 29A9 3CCD"),
        (torch.float64, "nearest", "3FE4D299E322D0E5 3FC77991F9D4FDF4 3FA6A339FFD23B64 3FF33441F18A3D71"),
        (torch.float64, "stochastic", "3FE4D299E322D0E5 3FC77991F9D4FDF4 3FA6A339FFD23B64 3FF33441F18A3D71"),
    ],
)
def test_combined_weights_are_pinned(backend: str, dtype: torch.dtype, rounding: noise.Rounding, expected: str) -> None:
    base = torch.tensor([0.5, -0.02, 3e-5, 1.0]).to(dtype)
    out = torch.empty_like(base)
    BACKENDS[backend].combine(
        [Span(out, base, 3, 4000)],
        [Term(5, 2, 0.125), Term(5, 3, -1e-3)],
        key=noise.run_key(0), distribution="gaussian", decay=0.999, rounding=rounding, rounding_step=5,
    )  # fmt: skip
    assert patterns(out) == expected


def test_the_page_states_the_constants_of_the_code(page: str) -> None:
    constants = [
        *spec.LOG_POLY_BITS, *spec.SIN_POLY_BITS, *spec.COS_POLY_BITS,
        spec.LOG_SPLIT_BITS, spec.MINUS_TWO_LN2_BITS, spec.ANGLE_STEP_BITS,
        spec.PHILOX_M0, spec.PHILOX_M1, spec.PHILOX_W0, spec.PHILOX_W1,
    ]  # fmt: skip
    stated = {int(word, 16) for word in re.findall(r"\b(?:0x)?([0-9A-F]{8})\b", page)}
    assert set(constants) <= stated
    assert f"Noise specification, version {spec.NOISE_SPEC_VERSION}" in page


@pytest.mark.parametrize("distribution", spec.DISTRIBUTIONS)
def test_an_implementation_written_from_the_page_gives_the_same_values(
    distribution: noise.Distribution,
) -> None:
    key = naive.key_of(7)
    for step, query, parameter in ((0, 0, 0), (1, 2, 3), (spec.MAX_STEP, spec.MAX_QUERY, spec.MAX_PARAMETER)):
        want = [naive.Z[distribution](element, step, query, parameter, key) for element in ELEMENTS]
        by_reference = reference.noise(torch.tensor(ELEMENTS), parameter, step, query, key, distribution)
        by_kernel = [
            noise.sample(
                1,
                parameter=parameter,
                step=step,
                query=query,
                key=key,
                distribution=distribution,
                start=element,
            ).item()
            for element in ELEMENTS
        ]
        assert by_reference.tolist() == [float(z) for z in want]
        assert by_kernel == [float(z) for z in want]


@pytest.mark.parametrize("distribution", spec.DISTRIBUTIONS)
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_an_implementation_written_from_the_page_combines_weights_alike(
    dtype: torch.dtype,
    rounding: noise.Rounding,
    distribution: noise.Distribution,
) -> None:
    key, parameter, start, count, decay, rounding_step = naive.key_of(1), 9, 2**33 + 200, 130, 0.99, 77
    terms = [Term(4, 0, 1e-3), Term(4, 1, -0.3), Term(3, 0, 1e-7)]
    generator = torch.Generator().manual_seed(0)
    # Magnitudes from float16's subnormals up to where it overflows.
    base = (
        torch.randn(count, generator=generator, dtype=torch.float64)
        * 10.0 ** torch.linspace(-8, 4.2, count, dtype=torch.float64)
    ).to(dtype)

    want = []
    for i, x in enumerate(base):
        where = (start + i, parameter, terms, distribution, decay, key)
        if dtype is torch.float64:
            want.append(int(np.array(naive.combine_64(x.item(), *where)).view(np.int64)))
            continue
        value = naive.combine_32(np.float32(x.item()), *where)
        d = naive.draw(start + i, rounding_step, parameter, key)
        if dtype is torch.float32:
            want.append(naive.as_bits(value))
        elif dtype is torch.bfloat16:
            nearest = rounding == "nearest"
            want.append(naive.to_bfloat16(value) if nearest else naive.to_bfloat16_stochastic(value, d))
        else:
            nearest = rounding == "nearest"
            want.append(naive.to_binary16(value) if nearest else naive.to_binary16_stochastic(value, d))

    size = base.element_size()
    expected = torch.from_numpy(np.array([w % 2 ** (8 * size) for w in want], f"u{size}").view(f"i{size}").copy()).view(
        dtype
    )
    for backend in BACKENDS.values():
        out = torch.empty_like(base)
        backend.combine(
            [Span(out, base, parameter, start)], terms, key=key, distribution=distribution,
            decay=decay, rounding=rounding, rounding_step=rounding_step,
        )  # fmt: skip
        assert_same_bits(out, expected)
