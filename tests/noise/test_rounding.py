"""Stochastic rounding: unbiased, exact where it can be, and updates below a 16-bit ulp arrive."""

from __future__ import annotations

import math

import pytest
import torch

from zoft import noise
from zoft.noise import Span, Term, reference

KEY = noise.run_key(5)
SIXTEEN = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])


def rounded(value: float, decay: float, dtype: torch.dtype, count: int, step: int = 0) -> tuple[torch.Tensor, float]:
    """Stochastically round ``value * decay`` in ``count`` places; also return what it is in float32."""
    base = torch.full((count,), value, dtype=dtype)
    exact = float(base[0].float() * torch.tensor(decay))
    noise.combine(
        [Span(base, base, 0)], [], key=KEY, distribution="gaussian", decay=decay, rounding="stochastic",
        rounding_step=step,
    )  # fmt: skip
    return base, exact


@SIXTEEN
@pytest.mark.parametrize("value", [1.0, -1.0, 0.0201, -3.3e-3, 7e-5, -4e-5, 3e-6, 2e-7, -6e-8])
@pytest.mark.parametrize("decay", [0.9999, 0.999, 0.75, 1.0001, 0.3])
def test_stochastic_rounding_is_unbiased_and_takes_a_neighbour(dtype: torch.dtype, value: float, decay: float) -> None:
    count = 2**16
    out, exact = rounded(value, decay, dtype, count)
    values = sorted(set(out.double().tolist()))
    assert len(values) <= 2
    low, high = values[0], values[-1]
    if low == high:  # either exact, or so close to a neighbour that the other was never drawn
        ulp = max(abs(low) * torch.finfo(dtype).eps, 2.0**-24 if dtype is torch.float16 else 0.0)
        assert abs(exact - low) <= ulp * 20 / count
        return
    assert low < exact < high
    assert float(torch.nextafter(torch.tensor(low, dtype=dtype), torch.tensor(math.inf, dtype=dtype))) == high
    share = (exact - low) / (high - low)
    arrived = (float(out.double().mean()) - low) / (high - low)
    assert arrived == pytest.approx(share, abs=5 * (share * (1 - share) / count) ** 0.5 + 2**-16)


@SIXTEEN
def test_every_16_bit_value_comes_back_unchanged(dtype: torch.dtype) -> None:
    everything = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    finite = everything[everything.isfinite()]
    for step in range(64):  # so that draws of 0 and of 65,535 are among them
        out = torch.empty_like(finite)
        noise.combine(
            [Span(out, finite, 0)], [], key=KEY, distribution="gaussian", rounding="stochastic",
            rounding_step=step,
        )  # fmt: skip
        assert torch.equal(out, finite)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_draw_rounds_up_exactly_if_it_is_below_the_remainder(sign: int) -> None:
    def rounded_with(value: float, draw: int, dtype: torch.dtype) -> float:
        values = torch.tensor([sign * value], dtype=torch.float32)
        return sign * float(reference.round_stochastically(values, torch.tensor([draw]), dtype))

    unit = 2.0**-24  # of float16 below its normal range: a draw below 2^16 times the remainder
    assert rounded_with(5 * unit, 0, torch.float16) == 5 * unit
    assert rounded_with(5.25 * unit, 2**14 - 1, torch.float16) == 6 * unit
    assert rounded_with(5.25 * unit, 2**14, torch.float16) == 5 * unit
    # Elsewhere a carry: draw + remainder of at least one unit.
    for dtype, ulp in ((torch.float16, 2.0**-10), (torch.bfloat16, 2.0**-7)):
        assert rounded_with(1 + ulp, 2**16 - 1, dtype) == 1 + ulp
        assert rounded_with(1 + 1.25 * ulp, 3 * 2**14, dtype) == 1 + 2 * ulp
        assert rounded_with(1 + 1.25 * ulp, 3 * 2**14 - 1, dtype) == 1 + ulp


@SIXTEEN
def test_nearest_rounding_is_torchs_own(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    base = (torch.randn(50_000, generator=generator) * 10 ** torch.linspace(-8, 4, 50_000)).to(dtype)
    out = torch.empty_like(base)
    noise.combine([Span(out, base, 0)], [], key=KEY, distribution="gaussian", decay=0.7)
    assert torch.equal(out, (base.float() * torch.tensor(0.7)).to(dtype))


@SIXTEEN
def test_another_step_another_parameter_and_another_seed_round_otherwise(dtype: torch.dtype) -> None:
    def bits(step: int = 0, parameter: int = 0, key: int = KEY) -> torch.Tensor:
        out = torch.full((4_096,), 0.7, dtype=dtype)
        noise.combine(
            [Span(out, out, parameter)], [], key=key, distribution="gaussian", decay=0.9995,
            rounding="stochastic", rounding_step=step,
        )  # fmt: skip
        return out > out.min()

    home = bits()
    assert torch.equal(home, bits())
    p = float(home.double().mean())
    for other in (bits(step=1), bits(parameter=1), bits(key=noise.run_key(6))):
        # Independent draws differ in 2 p (1 - p) of the places.
        assert float((home != other).double().mean()) == pytest.approx(2 * p * (1 - p), abs=0.05)


@SIXTEEN
@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
def test_an_update_far_below_an_ulp_arrives_whole(dtype: torch.dtype, distribution: noise.Distribution) -> None:
    count, size = 2**22, 1e-6
    theta = (torch.randn(count, generator=torch.Generator().manual_seed(0)) * 0.02).to(dtype)
    z = noise.sample(count, parameter=0, step=9, query=0, key=KEY, distribution=distribution)

    def projection(moved: torch.Tensor) -> float:
        delta = moved.double() - theta.double()
        return float(delta @ z.double() / (size * (z.double() @ z.double())))

    out = torch.empty_like(theta)
    noise.combine(
        [Span(out, theta, 0)], [Term(9, 0, size)], key=KEY, distribution=distribution,
        rounding="stochastic", rounding_step=9,
    )  # fmt: skip
    assert projection(out) == pytest.approx(1.0, abs=0.03)
    # What MeZO's data = data + scale * z does in 16 bits, and why this law exists.
    as_written = theta + (size * z).to(dtype)
    assert projection(as_written) < (0.1 if dtype is torch.bfloat16 else 0.5)


@SIXTEEN
def test_many_small_updates_add_up_without_drift(dtype: torch.dtype) -> None:
    count, steps, size = 2**14, 300, 1e-5
    theta = torch.full((count,), 0.02, dtype=dtype)
    out = theta.clone()
    for step in range(steps):  # the same direction each time, so that the sum is known
        noise.combine(
            [Span(out, out, 0)], [Term(0, 0, size)], key=KEY, distribution="rademacher",
            rounding="stochastic", rounding_step=step,
        )  # fmt: skip
    z = noise.sample(count, parameter=0, step=0, query=0, key=KEY, distribution="rademacher")
    arrived = ((out.float() - theta.float()) * z).mean() / (steps * size)
    assert float(arrived) == pytest.approx(1.0, abs=0.02)
