"""The fused kernels return the reference's bits, however a tensor is cut, laid out or threaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from noise_checks import assert_same_bits, check_mirrors

from zoft import noise
from zoft.noise import Span, Term, cpu, reference, spec

KEY = noise.run_key(12)
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
TERMS = [Term(3, 0, 1e-3), Term(3, 1, -0.7), Term(900_000, 5, 2.5e-6)]
DISTRIBUTIONS = spec.DISTRIBUTIONS

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
every_distribution = pytest.mark.parametrize("distribution", DISTRIBUTIONS)
every_rounding = pytest.mark.parametrize("rounding", ["nearest", "stochastic"])


def weights(count: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Weights of many magnitudes, float16's subnormals among them."""
    generator = torch.Generator().manual_seed(seed)
    scale = 10.0 ** (6 * torch.rand(count, generator=generator) - 7)
    return (torch.randn(count, generator=generator) * scale).to(dtype)


def both(base: torch.Tensor, start: int = 0, terms: list[Term] = TERMS, **options: object) -> list[torch.Tensor]:
    results = []
    for backend in (reference, cpu):
        out = torch.full_like(base, float("nan"))
        arguments = {"key": KEY, "distribution": "gaussian", **options}
        backend.combine([Span(out, base, 6, start)], terms, **arguments)  # type: ignore[arg-type]
        results.append(out)
    return results


@every_dtype
@every_distribution
@every_rounding
@pytest.mark.parametrize("count", [1, 31, 33, 255, 257, 4095, 4097, 20_001])
def test_kernels_equal_the_reference(
    dtype: torch.dtype, distribution: noise.Distribution, rounding: noise.Rounding, count: int
) -> None:
    options = {"distribution": distribution, "decay": 0.9990234, "rounding": rounding, "rounding_step": 3}
    assert_same_bits(*both(weights(count, dtype), start=77, **options))


@every_dtype
@every_distribution
def test_kernels_equal_the_reference_beyond_32_bit_elements(
    dtype: torch.dtype, distribution: noise.Distribution
) -> None:
    for start in (2**32 - 5_000, 2**37 - 5_000, 2**40 + 3, 2**43 - 10_000):
        options = {"distribution": distribution, "rounding": "stochastic", "rounding_step": 8}
        assert_same_bits(*both(weights(10_000, dtype), start=start, **options))


@every_dtype
@pytest.mark.parametrize("terms", [[], TERMS[:1], [Term(0, 0, 0.0)], [Term(0, 0, -0.0)]], ids=str)
def test_kernels_equal_the_reference_at_no_terms_and_at_signed_zeros(dtype: torch.dtype, terms: list[Term]) -> None:
    base = weights(5_000, dtype)
    base[::3], base[1::3] = 0.0, -0.0
    for distribution in DISTRIBUTIONS:
        assert_same_bits(*both(base, terms=terms, distribution=distribution))


@every_rounding
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_kernels_equal_the_reference_where_16_bits_overflow(dtype: torch.dtype, rounding: noise.Rounding) -> None:
    top = torch.finfo(dtype).max
    base = torch.full((6_000,), top, dtype=dtype)
    base[::2] = -top
    reference_out, cpu_out = both(
        base, terms=[Term(0, 0, top / 500)], rounding=rounding, distribution="rademacher", rounding_step=1
    )
    assert_same_bits(reference_out, cpu_out)
    assert reference_out.isinf().any() and reference_out.isfinite().any()


@every_dtype
@every_distribution
def test_nan_and_infinite_weights_stay_what_they_are(dtype: torch.dtype, distribution: noise.Distribution) -> None:
    base = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0], dtype=dtype)
    for out in both(base, distribution=distribution):
        assert out[0].isnan()
        assert out[1:3].tolist() == [float("inf"), -float("inf")]
        assert out[3].isfinite()


@every_dtype
@every_distribution
@every_rounding
@pytest.mark.parametrize("backend", [reference, cpu, noise], ids=lambda b: b.__name__)
def test_a_mirror_has_the_bits_of_negated_coefficients(
    backend: ModuleType, dtype: torch.dtype, distribution: noise.Distribution, rounding: noise.Rounding
) -> None:
    check_mirrors(backend.combine, weights(20_011, dtype), distribution, rounding)


@every_distribution
def test_mirrors_of_many_tensors_are_theirs_whatever_their_type(distribution: noise.Distribution) -> None:
    """An empty tensor among them, and an output that is its own base."""
    bases = [weights(size, DTYPES[i % 4], i) for i, size in enumerate([4_608, 0, 37, 70_001, 1, 4_096, 0, 9_000])]
    outs, mirrors, wanted = ([base.clone() for base in bases] for _ in range(3))
    spans = [Span(out, out, i) for i, out in enumerate(outs)]
    noise.combine(spans, TERMS, key=KEY, distribution=distribution, mirrors=mirrors)
    negated = [term._replace(coefficient=-term.coefficient) for term in TERMS]
    noise.combine([Span(w, w, i) for i, w in enumerate(wanted)], negated, key=KEY, distribution=distribution)
    for mirror, want in zip(mirrors, wanted, strict=True):
        assert_same_bits(mirror, want)
    for out, base, i in zip(outs, bases, range(8), strict=True):
        want = torch.empty_like(base)
        noise.combine([Span(want, base, i)], TERMS, key=KEY, distribution=distribution)
        assert_same_bits(out, want)


@every_dtype
@every_distribution
def test_in_place_equals_out_of_place(dtype: torch.dtype, distribution: noise.Distribution) -> None:
    base = weights(9_999, dtype)
    out, moved = torch.empty_like(base), base.clone()
    for span in (Span(out, base, 2), Span(moved, moved, 2)):
        noise.combine([span], TERMS, key=KEY, distribution=distribution, rounding="stochastic")
    assert_same_bits(out, moved)
    assert not torch.equal(out, base)


@every_distribution
def test_shape_and_memory_alignment_do_not_show(distribution: noise.Distribution) -> None:
    base = weights(3 * 35 * 7, torch.float32)
    flat = torch.empty_like(base)
    noise.combine([Span(flat, base, 2)], TERMS, key=KEY, distribution=distribution)
    for shape in ((3, 35, 7), (105, 7), (1, 735)):
        out = torch.empty(shape)
        noise.combine([Span(out, base.view(shape), 2)], TERMS, key=KEY, distribution=distribution)
        assert_same_bits(out.view(-1), flat)
    for shift in (1, 3):  # addresses that no vector register is aligned to
        out = torch.zeros(len(base) + 8)[shift : shift + len(base)]
        noise.combine([Span(out, base, 2)], TERMS, key=KEY, distribution=distribution)
        assert_same_bits(out, flat)


@every_dtype
def test_nothing_outside_the_span_is_written(dtype: torch.dtype) -> None:
    for low, high in ((1, 2), (5, 261), (31, 4_200), (0, 4_096)):
        buffer = torch.full((4_300,), 7.0, dtype=dtype)
        part = buffer[low:high]
        noise.combine(
            [Span(part, part.clone(), 0, 123)], TERMS, key=KEY, distribution="gaussian", rounding="stochastic"
        )
        assert (buffer[:low] == 7.0).all() and (buffer[high:] == 7.0).all()
        assert (part != 7.0).any()


def test_a_scalar_and_an_empty_tensor_are_fine() -> None:
    scalar, empty = torch.tensor(1.5), torch.empty(0, 4)
    for distribution in DISTRIBUTIONS:
        out = torch.empty(())
        noise.combine([Span(empty, empty, 0), Span(out, scalar, 1)], TERMS, key=KEY, distribution=distribution)
        want = torch.empty(1)
        reference.combine([Span(want, scalar.view(1), 1)], TERMS, key=KEY, distribution=distribution)
        assert_same_bits(out.view(1), want)
    noise.combine([], TERMS, key=KEY, distribution="gaussian")
    noise.combine_rows(
        torch.empty(0, 4), torch.ones(5, 4), torch.empty(0, dtype=torch.int64), 0, TERMS,
        key=KEY, distribution="gaussian",
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    start=st.one_of(st.integers(0, 9_000), st.integers(2**32 - 9_000, 2**32 + 9_000)),
    sizes=st.lists(st.integers(0, 5_000), min_size=1, max_size=6),
    distribution=st.sampled_from(DISTRIBUTIONS),
    dtype=st.sampled_from(DTYPES),
    rounding=st.sampled_from(["nearest", "stochastic"]),
)
def test_any_chunking_gives_the_same_bits(
    start: int,
    sizes: list[int],
    distribution: noise.Distribution,
    dtype: torch.dtype,
    rounding: noise.Rounding,
) -> None:
    base = weights(sum(sizes), dtype)
    options = {"key": KEY, "distribution": distribution, "rounding": rounding, "rounding_step": 4}
    whole = torch.empty_like(base)
    noise.combine([Span(whole, base, 1, start)], TERMS, **options)  # type: ignore[arg-type]

    one_call, many_calls = torch.empty_like(base), torch.empty_like(base)
    for out, together in ((one_call, True), (many_calls, False)):
        spans, at = [], 0
        for size in sizes:
            spans.append(Span(out[at : at + size], base[at : at + size], 1, start + at))
            at += size
        for batch in [spans] if together else [[span] for span in spans]:
            noise.combine(batch, TERMS, **options)  # type: ignore[arg-type]
    assert_same_bits(one_call, whole)
    assert_same_bits(many_calls, whole)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@every_distribution
def test_the_number_of_threads_does_not_show(
    distribution: noise.Distribution, threads: int, set_threads: Callable[[int], None]
) -> None:
    sizes = [300_001, 0, 7, 65_537, 4_096, 150_000, 1]
    bases = [weights(size, torch.float32, seed) for seed, size in enumerate(sizes)]

    def run() -> torch.Tensor:
        outs = [torch.full_like(base, float("nan")) for base in bases]
        spans = [Span(out, base, i, 1_000 * i) for i, (out, base) in enumerate(zip(outs, bases, strict=True))]
        noise.combine(spans, TERMS, key=KEY, distribution=distribution)
        return torch.cat(outs)

    set_threads(1)
    one = run()
    assert not one.isnan().any()
    set_threads(threads)
    assert_same_bits(run(), one)


@pytest.mark.parametrize("threads", [2, 3, 7])
@every_dtype
@every_distribution
def test_each_element_is_written_once(
    distribution: noise.Distribution, dtype: torch.dtype, threads: int, set_threads: Callable[[int], None]
) -> None:
    """In place, writing twice adds twice; cuts between threads fall before, into and after tensors of any length."""
    bases = [weights(size, dtype, size) for size in [4_608, 4_608, 1_536, 576, 4_096, 8_193, 30_000, 1] * 8]

    def run(backend: ModuleType) -> torch.Tensor:
        outs = [base.clone() for base in bases]
        spans = [Span(out, out, i, 900 * i) for i, out in enumerate(outs)]
        options = {"key": KEY, "distribution": distribution, "rounding": "stochastic", "rounding_step": 2}
        backend.combine(spans, TERMS, **options)
        return torch.cat(outs)

    want = run(reference)
    set_threads(threads)
    assert_same_bits(run(cpu), want)


@every_dtype
def test_thousands_of_small_tensors_in_one_call_equal_a_call_for_each(
    dtype: torch.dtype, set_threads: Callable[[int], None]
) -> None:
    set_threads(3)
    bases = [weights(1 + 37 * i % 211, dtype, i) for i in range(3_000)]
    together, apart = ([torch.empty_like(base) for base in bases] for _ in range(2))
    options = {"key": KEY, "distribution": "gaussian", "rounding": "stochastic", "rounding_step": 2}
    spans = [Span(out, base, i) for i, (out, base) in enumerate(zip(together, bases, strict=True))]
    noise.combine(spans, TERMS, **options)  # type: ignore[arg-type]
    for i, (out, base) in enumerate(zip(apart, bases, strict=True)):
        noise.combine([Span(out, base, i)], TERMS, **options)  # type: ignore[arg-type]
    assert_same_bits(torch.cat(together), torch.cat(apart))


def test_one_call_may_mix_dtypes() -> None:
    bases = [weights(500, dtype) for dtype in DTYPES]
    outs = [torch.empty_like(base) for base in bases]
    spans = [Span(out, base, i) for i, (out, base) in enumerate(zip(outs, bases, strict=True))]
    noise.combine(spans, TERMS, key=KEY, distribution="gaussian")
    for i, (out, base) in enumerate(zip(outs, bases, strict=True)):
        want = torch.empty_like(base)
        reference.combine([Span(want, base, i)], TERMS, key=KEY, distribution="gaussian")
        assert_same_bits(out, want)


@every_dtype
@every_distribution
def test_rows_equal_the_same_rows_of_the_whole(dtype: torch.dtype, distribution: noise.Distribution) -> None:
    base = weights(300 * 45, dtype).view(300, 45)
    whole = torch.empty_like(base)
    noise.combine([Span(whole, base, 4)], TERMS, key=KEY, distribution=distribution)
    for rows in ([0], [299, 0, 17, 17, 3, 299], list(range(300))):
        for backend in (noise, reference, cpu):
            out = torch.full((len(rows), 45), float("nan"), dtype=dtype)
            backend.combine_rows(  # type: ignore[attr-defined]
                out, base, torch.tensor(rows), 4, TERMS, key=KEY, distribution=distribution
            )
            assert_same_bits(out, whole[rows])


def test_rows_of_a_matrix_beyond_32_bit_elements_are_addressed_whole(tmp_path: Path) -> None:
    width, count = 2**13, 2**19 + 8
    # A sparse file of 8 GiB, of which only the rows asked for ever exist.
    base = torch.from_numpy(np.memmap(tmp_path / "matrix", np.int16, "w+", shape=(count, width)))
    base = base.view(torch.bfloat16)
    rows = torch.tensor([count - 1, 2**19 + 3, 1])
    out = torch.empty(len(rows), width, dtype=torch.bfloat16)
    noise.combine_rows(out, base, rows, 4, TERMS[:1], key=KEY, distribution="gaussian")
    elements = rows[:, None] * width + torch.arange(width)
    assert int(elements.max()) > 2**32
    z = reference.noise(elements, 4, TERMS[0].step, TERMS[0].query, KEY, "gaussian")
    assert_same_bits(out, (z * torch.tensor(TERMS[0].coefficient)).bfloat16())
