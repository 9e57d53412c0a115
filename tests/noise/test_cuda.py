"""The Triton kernels return the reference's bits: in Triton's interpreter, and on a GPU where there is one."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator

import pytest
import torch
from noise_checks import assert_same_bits, check_mirrors

from zoft import noise
from zoft.noise import Span, Term, cuda, reference

pytest.importorskip("triton")

KEY = noise.run_key(12)
TERMS = [Term(3, 0, 1e-3), Term(900_000, 5, -0.7)]
KERNEL = "zoft.noise._triton_kernel"

every_dtype = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=lambda d: str(d).removeprefix("torch.")
)
every_distribution = pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the kernels run."""
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
        yield "cuda"
        return
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # heeded when a kernel is defined
    sys.modules.pop(KERNEL, None)
    importlib.import_module(KERNEL)
    yield "cpu"
    sys.modules.pop(KERNEL, None)


def weights(count: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    """Weights of many magnitudes, float16's subnormals among them."""
    generator = torch.Generator().manual_seed(0)
    scale = 10.0 ** (6 * torch.rand(count, generator=generator) - 7)
    return (torch.randn(count, generator=generator) * scale).to(dtype).to(device)


@every_dtype
@every_distribution
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_kernels_equal_the_reference(
    device: str, dtype: torch.dtype, distribution: noise.Distribution, rounding: noise.Rounding
) -> None:
    base = weights(1_000, dtype, device)
    results = []
    for backend in (reference, cuda):
        out = torch.full_like(base, float("nan"))
        backend.combine(
            [Span(out, base, 6, 3_777)],
            TERMS,
            key=KEY,
            distribution=distribution,
            decay=0.9990234,
            rounding=rounding,
            rounding_step=3,
        )
        results.append(out)
    assert_same_bits(*results)


@every_dtype
@every_distribution
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_a_mirror_has_the_bits_of_negated_coefficients(
    device: str, dtype: torch.dtype, distribution: noise.Distribution, rounding: noise.Rounding
) -> None:
    check_mirrors(cuda.combine, weights(5_000, dtype, device), distribution, rounding)


@every_distribution
@pytest.mark.parametrize("start", [2**32 - 300, 2**43 - 2_000])
def test_kernels_equal_the_reference_beyond_32_bit_elements(
    device: str, distribution: noise.Distribution, start: int
) -> None:
    base = weights(600, torch.float32, device)
    results = []
    for backend in (reference, cuda):
        out = torch.empty_like(base)
        backend.combine([Span(out, base, 2, start)], TERMS[:1], key=KEY, distribution=distribution)
        results.append(out)
    assert_same_bits(*results)


def test_one_launch_serves_many_tensors_and_writes_only_within_them(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [1, 31, 257, 4_096, 5_000, 3]
    whole = weights(sum(sizes), torch.bfloat16, device)
    launches: list[int] = []
    launch = cuda._launch
    monkeypatch.setattr(cuda, "_launch", lambda *args: (launches.append(1), launch(*args)))
    results = []
    for backend in (reference, cuda):
        guard = torch.full((sum(sizes) + 64,), 7.0, dtype=torch.bfloat16, device=device)
        out = guard[32:-32]
        spans = [
            Span(written, read, number, 100 * number)
            for number, (written, read) in enumerate(zip(out.split(sizes), whole.split(sizes), strict=True))
        ]
        backend.combine(spans, TERMS, key=KEY, distribution="rademacher")
        results.append(guard)
    assert_same_bits(*results)
    assert len(launches) == 1


def test_an_update_in_place_is_applied_once(device: str) -> None:
    base = weights(9_000, torch.float32, device)
    moved = base.clone()
    cuda.combine([Span(moved, moved, 1, 5)], TERMS, key=KEY, distribution="gaussian", decay=0.5)
    expected = torch.empty_like(base)
    reference.combine([Span(expected, base, 1, 5)], TERMS, key=KEY, distribution="gaussian", decay=0.5)
    assert_same_bits(moved, expected)


@every_distribution
@pytest.mark.parametrize("width", [3, 300, 5_000])
def test_chosen_rows_equal_the_reference(device: str, distribution: noise.Distribution, width: int) -> None:
    base = weights(7 * width, torch.float16, device).view(7, width)
    rows = torch.tensor([5, 0, 5], device=device)
    results = []
    for backend in (reference, cuda):
        out = torch.empty(3, width, dtype=torch.float16, device=device)
        backend.combine_rows(out, base, rows, 4, TERMS, key=KEY, distribution=distribution)
        results.append(out)
    assert_same_bits(*results)


@every_dtype
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_given_sums_are_added_as_the_reference_adds_them(
    device: str, dtype: torch.dtype, rounding: noise.Rounding
) -> None:
    base = weights(5_000, dtype, device)
    total = weights(5_000, noise.compute_dtype(base), device).flip(0)
    results = []
    for backend in (reference, cuda):
        out = torch.full_like(base, float("nan"))
        backend.add(Span(out, base, 3, 777), total, 0.9990234, rounding, 5, KEY)
        results.append(out)
    assert_same_bits(*results)


@every_dtype
@pytest.mark.parametrize("inner", [1, 3])
@pytest.mark.parametrize("width", [5, 300, 5_000])
def test_products_are_added_as_the_reference_adds_them(
    device: str, dtype: torch.dtype, inner: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, count = width + 3, 2 * width - 1  # from within the second row into the fourth
    base = weights(count, dtype, device)
    left = weights(3 * inner, noise.compute_dtype(base), device).view(3, inner)
    right = weights(inner * width, noise.compute_dtype(base), device).view(inner, width)
    numbers = {"decay": 0.9990234, "rounding": "stochastic", "rounding_step": 5, "key": KEY}
    fused, blocks = torch.full_like(base, float("nan")), torch.full_like(base, float("nan"))
    cuda.add_products([(Span(fused, base, 3, start), left, right)], **numbers)
    monkeypatch.setattr(noise.cuda, "supports", lambda tensor: False)
    noise.add_products([Span(blocks, base, 3, start)], [left], [right], **numbers)
    assert_same_bits(fused, blocks)


@pytest.mark.parametrize("count", [0, 1])
def test_no_direction_leaves_the_weights_to_decay(device: str, count: int) -> None:
    base = weights(300, torch.float32, device)
    out = torch.empty_like(base)
    cuda.combine([Span(out, base, 0, 0)], [Term(0, 0, 0.0)] * count, key=KEY, distribution="gaussian", decay=0.25)
    assert torch.equal(out, base * 0.25)


@pytest.mark.parametrize(("check", "of"), [("_agrees", (False,)), ("_agrees", (True,)), ("_adds", ())])
def test_a_kernel_that_gives_other_bits_is_not_used(
    device: str, check: str, of: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    agrees = getattr(cuda, check)
    agrees.cache_clear()
    assert agrees(torch.device(device), torch.bfloat16, *of)
    if device == "cpu" and check == "_agrees" and of == (False,):
        kernel = sys.modules[KERNEL]
        monkeypatch.setattr(kernel, "ROUNDS", type(kernel.ROUNDS)(9))
    else:  # on a GPU Triton refuses to run a compiled kernel whose constants have changed
        launch = cuda._launch
        monkeypatch.setattr(cuda, "_launch", lambda *args: (launch(*args), args[2].view(-1)[3:4].zero_()))
    agrees.cache_clear()
    with pytest.warns(noise.cuda.ZoftWarning, match="do not give the specified bits"):
        assert not agrees(torch.device(device), torch.bfloat16, *of)
    agrees.cache_clear()


@pytest.mark.gpu
def test_roots_are_correctly_rounded_for_all_radii() -> None:
    """A Gaussian's radius has 2^18 values, as many as its 18 bits."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    from pairs_kernel import first_of_pairs

    words = torch.arange(2**18, device="cuda") << 2
    expected = reference.gaussian_from_word(words, torch.zeros_like(words, dtype=torch.bool))
    assert_same_bits(first_of_pairs(words), expected)


@pytest.mark.parametrize("mirrored", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("native", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("code", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_compiled_code_rounds_every_operation_on_its_own(
    code: int, native: bool, mirrored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton compiles for a GPU without one: no multiply-add is fused but the two of each square root."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    sys.modules.pop(KERNEL, None)
    kernel = importlib.import_module(KERNEL)
    names = ("code", "distribution", "stochastic", "tiles", "native", "mirrored")
    source = ASTSource(
        fn=kernel.combine_tiles,
        signature={"items": "*i64", "call": "*i64", **dict.fromkeys(names, "constexpr")},
        constexprs=dict(zip(names, (code, 0, code == 1, 16, native, mirrored), strict=True)),
    )
    options = {"num_warps": 4, "enable_fp_fusion": False}
    ptx = compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    sys.modules.pop(KERNEL, None)
    roots = 16 * 32 * 4 // (4 * 32)  # a thread's: tiles, lanes and words, over four warps
    assert len(re.findall(r"\bfma\.", ptx)) == len(re.findall(r"\bfma\.rn\.f32", ptx)) == (2 * roots if native else 0)
    assert ptx.count("rsqrt.approx") == (roots if native else 0)
    assert ("sqrt.rn.f32" in ptx) == (not native) and " sqrt.approx" not in ptx
