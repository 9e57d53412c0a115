"""The noise specification in plain torch: the slow truth that every fast backend is held equal to.

32-bit words live in int64 tensors, because torch has no unsigned 32-bit arithmetic. Works on any device,
in chunks, so that it never holds more than a few tens of megabytes beside the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from zoft.noise import spec
from zoft.noise.spec import Distribution, Rounding, Span, Term

_MASK = 0xFFFFFFFF
_CHUNK = spec.RADEMACHER_TILE * 64


def philox(counter: tuple[torch.Tensor, ...], key: int) -> tuple[torch.Tensor, ...]:
    """Philox4x32-10 on four int64 tensors of 32-bit words; returns four of the same shape."""
    c0, c1, c2, c3 = counter
    k0, k1 = key & _MASK, key >> 32
    for _ in range(spec.PHILOX_ROUNDS):
        # int64 products wrap modulo 2^64, which leaves exactly the 64 bits wanted.
        p0, p1 = c0 * spec.PHILOX_M0, c2 * spec.PHILOX_M1
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + spec.PHILOX_W0) & _MASK, (k1 + spec.PHILOX_W1) & _MASK
    return c0, c1, c2, c3


def _words(elements: torch.Tensor, tile: int, key: int, fields: tuple[int, int, int]) -> torch.Tensor:
    """Return the 32-bit word (int64) that each element draws from, before its part is cut out."""
    lane = elements % spec.LANES
    word = elements % tile // (tile // spec.WORDS)
    blocks, where = torch.unique(elements // tile * spec.LANES + lane, return_inverse=True)
    c1, c2, c3 = fields
    counter = (
        blocks & _MASK,
        c1 | (blocks >> 32) << 24,
        torch.full_like(blocks, c2),
        torch.full_like(blocks, c3),
    )
    return torch.stack(philox(counter, key))[word, where]


def _constant(bits: int, device: torch.device) -> torch.Tensor:
    return torch.tensor(bits, dtype=torch.int64, device=device).to(torch.int32).view(torch.float32)


def _horner(x: torch.Tensor, poly: Sequence[int]) -> torch.Tensor:
    *rest, last = (_constant(bits, x.device) for bits in poly)
    value = last * torch.ones_like(x)
    for coefficient in reversed(rest):
        value = value * x + coefficient
    return value


def gaussian_from_word(word: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Map 32-bit words to float32 Gaussian values; ``high`` (bool) picks the second of each pair."""
    odd = (word >> 1 & 0x7FFFE | 1).to(torch.float32)  # exact: below 2^19
    shifted = odd.view(torch.int32) - spec.LOG_SPLIT_BITS
    exponent = ((shifted >> 23) - 19).to(torch.float32)
    m = ((shifted & 0x7FFFFF) + spec.LOG_SPLIT_BITS).view(torch.float32) - 1.0
    mm = m * m
    g0, g1, g2, g3, g4 = (_constant(bits, word.device) for bits in spec.LOG_POLY_BITS)
    log = ((g0 + g1 * m) + mm * ((g2 + g3 * m) + g4 * mm)) * m
    squared = exponent * _constant(spec.MINUS_TWO_LN2_BITS, word.device) + log
    # torch's float32 sqrt may be off by one ulp (MKL); through float64 the result is correctly rounded.
    radius = torch.sqrt(squared.double()).float()

    signed = (word >> 20 ^ 0x800) - 0x800
    angle = (signed.to(torch.float32) + 0.5) * _constant(spec.ANGLE_STEP_BITS, word.device)
    square = angle * angle
    sine = _horner(square, spec.SIN_POLY_BITS) * angle
    cosine = _horner(square, spec.COS_POLY_BITS)
    value = radius * torch.where(high, cosine + sine, cosine - sine)
    negative = torch.where(high, word & 2, word & 1) != 0
    return torch.where(negative, -value, value)


def noise(
    elements: torch.Tensor, parameter: int, step: int, query: int, key: int, distribution: Distribution
) -> torch.Tensor:
    """Return z at the given flat element indices of one parameter.

    Args:
        elements: int64 tensor of flat (row-major) indices, any shape.
        parameter: The parameter's number.
        step: Step number.
        query: Query number within the step.
        key: 64-bit key, from :func:`zoft.noise.spec.run_key`.
        distribution: ``"gaussian"`` or ``"rademacher"``.

    Returns:
        float32 tensor of the shape of ``elements``.
    """
    fields = spec.counter_words(spec.PURPOSE_DIRECTION, step, query, parameter)
    if distribution == "rademacher":
        word = _words(elements, spec.RADEMACHER_TILE, key, fields)
        bit = elements // spec.LANES % 32
        return 1.0 - 2.0 * (word >> bit & 1).to(torch.float32)
    word = _words(elements, spec.GAUSSIAN_TILE, key, fields)
    return gaussian_from_word(word, high=elements // spec.LANES % 2 == 1)


def rounding_bits(elements: torch.Tensor, parameter: int, step: int, key: int) -> torch.Tensor:
    """Return the 16 random bits (int64) with which an update at ``step`` rounds each element."""
    fields = spec.counter_words(spec.PURPOSE_ROUNDING, step, 0, parameter)
    word = _words(elements, spec.GAUSSIAN_TILE, key, fields)
    return torch.where(elements // spec.LANES % 2 == 1, word >> 16, word & 0xFFFF)


def round_stochastically(value: torch.Tensor, bits: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round finite float32 values to bfloat16 or float16, up with probability equal to the remainder.

    Args:
        value: float32 tensor.
        bits: int64 tensor of the same shape, values in ``[0, 2**16)``.
        dtype: ``torch.bfloat16`` or ``torch.float16``.

    Returns:
        Tensor of ``dtype``. Values that ``dtype`` holds exactly come back unchanged, whatever the bits.
    """
    raw = value.view(torch.int32).to(torch.int64) & _MASK
    dropped = 16 if dtype is torch.bfloat16 else 13
    carried = (raw + (bits >> 16 - dropped)) >> dropped << dropped
    rounded = carried.to(torch.int32).view(torch.float32).to(dtype)
    if dtype is torch.bfloat16:
        return rounded
    # Below the normal range the spacing of float16 is the constant 2^-24.
    scaled = value.abs() * 2.0**24
    units = torch.floor(scaled)
    up = bits.to(torch.float32) < (scaled - units) * 65536.0
    tiny = torch.copysign((units + up) * 2.0**-24, value).to(dtype)
    return torch.where(value.abs() < 2.0**-14, tiny, rounded)


def _combine(
    base: torch.Tensor,
    elements: torch.Tensor,
    parameter: int,
    terms: Sequence[Term],
    decay: float,
    rounding: Rounding,
    rounding_step: int,
    key: int,
    distribution: Distribution,
) -> torch.Tensor:
    compute = spec.compute_dtype(base)
    total = torch.zeros(base.shape, dtype=compute, device=base.device)
    for term in terms:
        z = noise(elements, parameter, term.step, term.query, key, distribution).to(compute)
        total = total + z * torch.tensor(term.coefficient, dtype=compute, device=base.device)
    return _added(base, total, decay, rounding, lambda: rounding_bits(elements, parameter, rounding_step, key))


def _added(
    base: torch.Tensor, total: torch.Tensor, decay: float, rounding: Rounding, bits: Callable[[], torch.Tensor]
) -> torch.Tensor:
    value = base.to(total.dtype) * torch.tensor(decay, dtype=total.dtype, device=base.device) + total
    if rounding == "stochastic" and base.dtype in (torch.bfloat16, torch.float16):
        return round_stochastically(value, bits(), base.dtype)
    return value.to(base.dtype)


def add(span: Span, total: torch.Tensor, decay: float, rounding: Rounding, rounding_step: int, key: int) -> None:
    """See :func:`zoft.noise.add`."""
    out, base, total = span.out.view(-1), span.base.view(-1), total.view(-1)
    if out.dtype == total.dtype:
        # One pass or two, with the bits of the way below.
        torch.add(base if decay == 1.0 else base * torch.tensor(decay, dtype=base.dtype), total, out=out)
        return
    for low, high in _chunks(out.numel()):
        first, last = span.start + low, span.start + high

        def bits(first: int = first, last: int = last) -> torch.Tensor:
            elements = torch.arange(first, last, device=out.device)
            return rounding_bits(elements, span.parameter, rounding_step, key)

        out[low:high] = _added(base[low:high], total[low:high], decay, rounding, bits)


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """See :func:`zoft.noise.product`."""
    total = left[:, 0, None] * right[0]
    for number in range(1, right.shape[0]):
        # Two operations: in one, a machine may or may not round in between.
        total.add_(left[:, number, None] * right[number])
    return total


def combine(
    spans: Sequence[Span],
    terms: Sequence[Term],
    *,
    key: int,
    distribution: Distribution,
    decay: float = 1.0,
    rounding: Rounding = "nearest",
    rounding_step: int = 0,
    mirrors: Sequence[torch.Tensor] = (),
) -> None:
    """Plain version of :func:`zoft.noise.combine`; see there."""
    if mirrors:
        mirrored = [span._replace(out=mirror) for span, mirror in zip(spans, mirrors, strict=True)]
        combine(
            mirrored,
            spec.negated(terms),
            key=key,
            distribution=distribution,
            decay=decay,
            rounding=rounding,
            rounding_step=rounding_step,
        )
    for span in spans:
        out, base = span.out.view(-1), span.base.view(-1)
        for low, high in _chunks(out.numel()):
            elements = torch.arange(span.start + low, span.start + high, device=out.device)
            out[low:high] = _combine(
                base[low:high],
                elements,
                span.parameter,
                terms,
                decay,
                rounding,
                rounding_step,
                key,
                distribution,
            )


def combine_rows(
    out: torch.Tensor,
    base: torch.Tensor,
    rows: torch.Tensor,
    parameter: int,
    terms: Sequence[Term],
    *,
    key: int,
    distribution: Distribution,
) -> None:
    """Plain version of :func:`zoft.noise.combine_rows`; see there."""
    width = base.shape[1]
    step = max(1, _CHUNK // max(1, width))
    for low in range(0, len(rows), step):
        picked = rows[low : low + step].to(torch.int64)
        elements = picked[:, None] * width + torch.arange(width, device=rows.device)
        out[low : low + step] = _combine(base[picked], elements, parameter, terms, 1.0, "nearest", 0, key, distribution)


def _chunks(total: int) -> Iterator[tuple[int, int]]:
    for low in range(0, total, _CHUNK):
        yield low, min(low + _CHUNK, total)
