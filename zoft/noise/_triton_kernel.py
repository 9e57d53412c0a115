"""The GPU code behind :mod:`zoft.noise.cuda`; the only file that knows Triton.

A program makes the noise of a few neighbouring tiles of 256 elements (32 lanes, 4 words, 2 halves; see
``docs/noise.md``), so that each Philox block of Gaussian values, and of rounding draws, is computed once. Sums over
directions stay in registers; weights are read once and written once. Which parameter and which tiles a program has is
looked up in a table of the call's work items, so one launch serves any number of tensors.

Only what Triton's language itself defines is called, none of its library functions, so that its interpreter runs them
however it was imported. Kernels must be launched with ``enable_fp_fusion=False``: the specification rounds every
operation on its own.
"""

from __future__ import annotations

import triton
import triton.language as tl

from zoft.noise import spec

TILE = tl.constexpr(spec.GAUSSIAN_TILE)
LANES = tl.constexpr(spec.LANES)
RADEMACHER_TILES = tl.constexpr(spec.RADEMACHER_TILE // spec.GAUSSIAN_TILE)
ROUNDS = tl.constexpr(spec.PHILOX_ROUNDS)
M0, M1 = tl.constexpr(spec.PHILOX_M0), tl.constexpr(spec.PHILOX_M1)
W0, W1 = tl.constexpr(spec.PHILOX_W0), tl.constexpr(spec.PHILOX_W1)
DIRECTION, ROUNDING = tl.constexpr(spec.PURPOSE_DIRECTION << 24), tl.constexpr(spec.PURPOSE_ROUNDING << 24)
SPLIT = tl.constexpr(spec.LOG_SPLIT_BITS)
G0, G1, G2, G3, G4 = (tl.constexpr(bits) for bits in spec.LOG_POLY_BITS)
S0, S1, S2 = (tl.constexpr(bits) for bits in spec.SIN_POLY_BITS)
C0, C1, C2 = (tl.constexpr(bits) for bits in spec.COS_POLY_BITS)
MINUS_TWO_LN2, ANGLE_STEP = tl.constexpr(spec.MINUS_TWO_LN2_BITS), tl.constexpr(spec.ANGLE_STEP_BITS)

F32, BF16, F16, F64 = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
GAUSSIAN, RADEMACHER = tl.constexpr(0), tl.constexpr(1)
TOTAL, PRODUCT = tl.constexpr(2), tl.constexpr(3)  # no noise: sums that are there, or products of thin matrices
# Address written, address read, count, start, parameter, first program; the address of the sums, of the left matrix or,
# of noise, of the mirror; that of the right matrix, its width, how many products an element sums, the left matrix's
# first row, how many it has.
ITEM_FIELDS = tl.constexpr(12)
CALL_HEADER = tl.constexpr(7)
TERM_FIELDS = tl.constexpr(3)  # step, query, coefficient (the bits of a float64)


@triton.jit
def _constant(bits: tl.constexpr):
    return tl.full((1, 1), bits, tl.uint32).to(tl.float32, bitcast=True)


@triton.jit
def _philox(first, offset, c1, c2, c3, k0, k1):
    """Philox4x32-10 of the counters ``(block low, c1 | block high << 24, c2, c3)``; four tensors of words.

    Blocks are ``first + offset``: a number of 40 bits that the offsets, uint32, cannot carry beyond 32.
    """
    nothing = offset * 0
    a, b = offset + (first & 0xFFFFFFFF).to(tl.uint32), nothing + (c1 | ((first >> 32) << 24)).to(tl.uint32)
    c, d = nothing + c2.to(tl.uint32), nothing + c3.to(tl.uint32)
    q0, q1 = nothing + k0.to(tl.uint32), nothing + k1.to(tl.uint32)
    for _ in tl.static_range(ROUNDS):
        product0, product1 = a.to(tl.uint64) * M0, c.to(tl.uint64) * M1
        a, b = (product1 >> 32).to(tl.uint32) ^ b ^ q0, product1.to(tl.uint32)
        c, d = (product0 >> 32).to(tl.uint32) ^ d ^ q1, product0.to(tl.uint32)
        q0 += tl.full((1, 1), W0, tl.uint32)
        q1 += tl.full((1, 1), W1, tl.uint32)
    return a, b, c, d


@triton.jit
def _root(x, native: tl.constexpr):
    """The correctly rounded square root of a radius squared.

    Args:
        x: float32, normal numbers.
        native: By one step of Newton's from the approximation that NVIDIA's processors have: as ``sqrt_rn``, without
            its branch for numbers that cannot occur here.
    """
    if native:
        inverse = tl.rsqrt(x)
        root = x * inverse
        return tl.fma(tl.fma(-root, root, x), inverse * 0.5, root)
    else:
        return tl.sqrt_rn(x)


@triton.jit
def _gaussian_pair(word, native: tl.constexpr):
    """Two float32 Gaussian values from each 32-bit word."""
    odd = (((word >> 1) & 0x7FFFE) | 1).to(tl.float32)
    shifted = odd.to(tl.uint32, bitcast=True) - tl.full((1, 1), SPLIT, tl.uint32)
    exponent = ((shifted.to(tl.int32, bitcast=True) >> 23) - 19).to(tl.float32)
    mantissa = (shifted & 0x7FFFFF) + tl.full((1, 1), SPLIT, tl.uint32)
    m = mantissa.to(tl.float32, bitcast=True) - 1.0
    mm = m * m
    p = (_constant(G0) + _constant(G1) * m) + mm * ((_constant(G2) + _constant(G3) * m) + _constant(G4) * mm)
    radius = _root(exponent * _constant(MINUS_TWO_LN2) + p * m, native)
    angle = ((word.to(tl.int32, bitcast=True) >> 20).to(tl.float32) + 0.5) * _constant(ANGLE_STEP)
    y = angle * angle
    s = ((_constant(S2) * y + _constant(S1)) * y + _constant(S0)) * angle
    c = (_constant(C2) * y + _constant(C1)) * y + _constant(C0)
    low, high = radius * (c - s), radius * (c + s)
    return _flipped(low, word << 31), _flipped(high, (word << 30) & 0x80000000)


@triton.jit
def _flipped(value, sign):
    """The value with its sign bit changed where ``sign`` has it."""
    return (value.to(tl.uint32, bitcast=True) ^ sign).to(tl.float32, bitcast=True)


@triton.jit
def _rademacher(word, bit):
    """+1 where the bit is 0, -1 where it is 1."""
    return _flipped(tl.full((1, 1), 0x3F800000, tl.uint32).to(tl.float32, bitcast=True), (word >> bit) << 31)


@triton.jit
def _scaled(z, coefficient, code: tl.constexpr):
    if code == F64:
        return z.to(tl.float64) * coefficient
    else:
        return z * coefficient.to(tl.float32)


@triton.jit
def _float16_stochastic(value, draw):
    """Bits of float16, rounded up with probability equal to the remainder."""
    bits = value.to(tl.uint32, bitcast=True)
    carried = (bits + (draw >> 3)) & 0xFFFFE000
    normal = carried.to(tl.float32, bitcast=True).to(tl.float16).to(tl.uint16, bitcast=True)
    # Below the normal range the spacing of float16 is the constant 2^-24.
    scaled = tl.abs(value) * 16777216.0
    units = tl.floor(scaled)
    up = (draw.to(tl.int32).to(tl.float32) < (scaled - units) * 65536.0).to(tl.float32)
    tiny = ((units + up) * 5.9604644775390625e-08).to(tl.float16).to(tl.uint16, bitcast=True)
    signed = tiny | ((bits & 0x80000000) >> 16).to(tl.uint16)
    return tl.where(tl.abs(value) < 6.103515625e-05, signed, normal)


@triton.jit
def _bfloat16_nearest(value, native: tl.constexpr):
    bits = value.to(tl.uint32, bitcast=True)
    if native:
        rounded = value.to(tl.bfloat16).to(tl.uint16, bitcast=True)
    else:
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(tl.uint16)
    return tl.where(value != value, ((bits | 0x400000) >> 16).to(tl.uint16), rounded)


@triton.jit
def _read(base, place, lowest, highest, whole: tl.constexpr, code: tl.constexpr):
    """Load weights, 16-bit ones as their bits: all, or those at ``lowest <= place < highest``."""
    kind: tl.constexpr = tl.float64 if code == F64 else tl.float32 if code == F32 else tl.uint16
    pointers = base.to(tl.pointer_type(kind)) + place
    if whole:
        return tl.load(pointers)
    else:
        return tl.load(pointers, mask=(place >= lowest) & (place < highest))


@triton.jit
def _read_tiles(base, place, lowest, highest, whole: tl.constexpr, code: tl.constexpr):
    """Load the eight runs of lanes that a tile has."""
    w0 = _read(base, place, lowest, highest, whole, code)
    w1 = _read(base, place + LANES, lowest, highest, whole, code)
    w2 = _read(base, place + 2 * LANES, lowest, highest, whole, code)
    w3 = _read(base, place + 3 * LANES, lowest, highest, whole, code)
    w4 = _read(base, place + 4 * LANES, lowest, highest, whole, code)
    w5 = _read(base, place + 5 * LANES, lowest, highest, whole, code)
    w6 = _read(base, place + 6 * LANES, lowest, highest, whole, code)
    w7 = _read(base, place + 7 * LANES, lowest, highest, whole, code)
    return w0, w1, w2, w3, w4, w5, w6, w7


@triton.jit
def _write(out, place, lowest, highest, whole: tl.constexpr, new, code: tl.constexpr):
    """Store weights, 16-bit ones as their bits: all, or those at ``lowest <= place < highest``."""
    kind: tl.constexpr = tl.float64 if code == F64 else tl.float32 if code == F32 else tl.uint16
    pointers = out.to(tl.pointer_type(kind)) + place
    if whole:
        tl.store(pointers, new)
    else:
        tl.store(pointers, new, mask=(place >= lowest) & (place < highest))


@triton.jit
def _moved(old, total, draw, decay, code: tl.constexpr, stochastic: tl.constexpr, native: tl.constexpr):
    """``round(decay * old + total)``, with 16-bit numbers as their bits."""
    if code == F64:
        return old * decay + total
    elif code == F32:
        return old * decay.to(tl.float32) + total
    elif code == BF16:
        value = (old.to(tl.uint32) << 16).to(tl.float32, bitcast=True) * decay.to(tl.float32) + total
        if stochastic:
            return ((value.to(tl.uint32, bitcast=True) + draw) >> 16).to(tl.uint16)
        else:
            return _bfloat16_nearest(value, native)
    else:
        value = old.to(tl.float16, bitcast=True).to(tl.float32) * decay.to(tl.float32) + total
        if stochastic:
            return _float16_stochastic(value, draw)
        else:
            return value.to(tl.float16).to(tl.uint16, bitcast=True)


@triton.jit
def _directions(
    terms,
    term_count,
    tile,
    offset,
    lane,
    parameter,
    k0,
    k1,
    code: tl.constexpr,
    distribution: tl.constexpr,
    tiles: tl.constexpr,
    native: tl.constexpr,
):
    """Sums of scaled directions, of the eight runs of lanes that a tile has."""
    block = (offset * LANES + lane).to(tl.uint32)
    t0 = tl.full((tiles, LANES), 0.0, tl.float64 if code == F64 else tl.float32)  # word 0, low half
    t1, t2, t3, t4, t5, t6, t7 = t0, t0, t0, t0, t0, t0, t0
    for number in range(term_count):
        term = terms + number * TERM_FIELDS
        step, query = tl.load(term), tl.load(term + 1) | DIRECTION
        coefficient = tl.load(term + 2).to(tl.float64, bitcast=True)
        if distribution == GAUSSIAN:
            w0, w1, w2, w3 = _philox(tile * LANES, block, parameter, step, query, k0, k1)
            z0, z1 = _gaussian_pair(w0, native)
            z2, z3 = _gaussian_pair(w1, native)
            z4, z5 = _gaussian_pair(w2, native)
            z6, z7 = _gaussian_pair(w3, native)
        else:
            # All tiles of a group share their blocks: one for each lane.
            shared = tile // RADEMACHER_TILES * LANES
            w0, w1, w2, w3 = _philox(shared, lane.to(tl.uint32), parameter, step, query, k0, k1)  # [1, LANES]
            within = (tile % RADEMACHER_TILES).to(tl.int32) + offset  # four tiles share a word
            word = tl.where(within < 8, tl.where(within < 4, w0, w1), tl.where(within < 12, w2, w3))
            word = word >> (within % 4 * 8).to(tl.uint32)
            z0, z1 = _rademacher(word, 0), _rademacher(word, 1)
            z2, z3 = _rademacher(word, 2), _rademacher(word, 3)
            z4, z5 = _rademacher(word, 4), _rademacher(word, 5)
            z6, z7 = _rademacher(word, 6), _rademacher(word, 7)
        t0 += _scaled(z0, coefficient, code)
        t1 += _scaled(z1, coefficient, code)
        t2 += _scaled(z2, coefficient, code)
        t3 += _scaled(z3, coefficient, code)
        t4 += _scaled(z4, coefficient, code)
        t5 += _scaled(z5, coefficient, code)
        t6 += _scaled(z6, coefficient, code)
        t7 += _scaled(z7, coefficient, code)
    return t0, t1, t2, t3, t4, t5, t6, t7


@triton.jit
def _given(sums, beyond, place, lowest, highest, code: tl.constexpr):
    """Sums that are there, float32 or float64, of the eight runs of lanes that a tile has."""
    sums += beyond * (8 if code == F64 else 4)
    kind: tl.constexpr = F64 if code == F64 else F32
    return _read_tiles(sums, place, lowest, highest, False, kind)


@triton.jit
def _products(left, right, first_row, rows, width, inner, element, place, code: tl.constexpr):
    """Elements of a product of matrices, of the eight runs of lanes that a tile has; each step of a sum is rounded.

    Args:
        left: Address of ``[rows, inner]``, float32 or float64.
        right: Address of ``[inner, width]``, likewise.
        first_row: Of the weight, which the left matrix begins with.
        rows: Of the left matrix.
        width: Of the weight.
        inner: >= 1.
        element: Of the weight, which the first tile begins with.
        place: Of each element, counted from there.
        code: The weights' dtype.
    """
    kind: tl.constexpr = tl.float64 if code == F64 else tl.float32
    row = element // width
    column = (element - row * width).to(tl.int32) + place
    row = (row - first_row).to(tl.int32)
    rows, width, inner = rows.to(tl.int32), width.to(tl.int32), inner.to(tl.int32)
    per_width = 1.0 / width.to(tl.float32)
    l0, r0 = _operands(row, column, rows, width, per_width, inner)
    l1, r1 = _operands(row, column + LANES, rows, width, per_width, inner)
    l2, r2 = _operands(row, column + 2 * LANES, rows, width, per_width, inner)
    l3, r3 = _operands(row, column + 3 * LANES, rows, width, per_width, inner)
    l4, r4 = _operands(row, column + 4 * LANES, rows, width, per_width, inner)
    l5, r5 = _operands(row, column + 5 * LANES, rows, width, per_width, inner)
    l6, r6 = _operands(row, column + 6 * LANES, rows, width, per_width, inner)
    l7, r7 = _operands(row, column + 7 * LANES, rows, width, per_width, inner)
    left, right = left.to(tl.pointer_type(kind)), right.to(tl.pointer_type(kind))
    t0 = tl.load(left + l0) * tl.load(right + r0)
    t1 = tl.load(left + l1) * tl.load(right + r1)
    t2 = tl.load(left + l2) * tl.load(right + r2)
    t3 = tl.load(left + l3) * tl.load(right + r3)
    t4 = tl.load(left + l4) * tl.load(right + r4)
    t5 = tl.load(left + l5) * tl.load(right + r5)
    t6 = tl.load(left + l6) * tl.load(right + r6)
    t7 = tl.load(left + l7) * tl.load(right + r7)
    for _ in tl.range(1, inner, loop_unroll_factor=1):
        left += 1
        right += width
        t0 += tl.load(left + l0) * tl.load(right + r0)
        t1 += tl.load(left + l1) * tl.load(right + r1)
        t2 += tl.load(left + l2) * tl.load(right + r2)
        t3 += tl.load(left + l3) * tl.load(right + r3)
        t4 += tl.load(left + l4) * tl.load(right + r4)
        t5 += tl.load(left + l5) * tl.load(right + r5)
        t6 += tl.load(left + l6) * tl.load(right + r6)
        t7 += tl.load(left + l7) * tl.load(right + r7)
    return t0, t1, t2, t3, t4, t5, t6, t7


@triton.jit
def _operands(row, column, rows, width, per_width, inner):
    """Where the first factors of products are in each matrix; beyond the left one, in one of its rows."""
    # Floored exactly: a quotient is half an element or more from a whole one (see zoft.noise.cuda for the limits).
    down = ((column.to(tl.float32) + 0.5) * per_width).to(tl.int32)
    return tl.minimum(tl.maximum(row + down, 0), rows - 1) * inner, column - down * width


@triton.jit
def combine_tiles(
    items,
    call,
    code: tl.constexpr,
    distribution: tl.constexpr,
    stochastic: tl.constexpr,
    tiles: tl.constexpr,
    native: tl.constexpr,
    mirrored: tl.constexpr,
):
    """Process a program's groups of ``tiles`` tiles, all of one work item.

    Args:
        items: ``[n, ITEM_FIELDS]`` int64. A program's item is the last whose first program is not after it.
        call: int64: the number of items (>= 1), the number of directions, low key, high key, rounding step, decay (the
            bits of a float64), how many groups a program has; then for each direction ``TERM_FIELDS``. As arguments,
            numbers would be compiled in.
        code: The weights' dtype.
        distribution: Of the directions; or ``TOTAL``, or ``PRODUCT``.
        stochastic: Whether 16-bit results are rounded stochastically.
        tiles: How many tiles a group has: a power of two, at most those that share a Rademacher block.
        native: Whether the processor is NVIDIA's, whose instructions are then used for square roots and for rounding.
        mirrored: Whether the same with negated sums is written, too, to an item's mirror.
    """
    item_count, term_count = tl.load(call), tl.load(call + 1)
    k0, k1 = tl.load(call + 2), tl.load(call + 3)
    rounding_step, decay = tl.load(call + 4), tl.load(call + 5).to(tl.float64, bitcast=True)
    groups = tl.load(call + 6)
    terms = call + CALL_HEADER

    program = tl.program_id(0).to(tl.int64)
    low, high = item_count * 0, item_count
    while high - low > 1:
        middle = (low + high) // 2
        before = tl.load(items + middle * ITEM_FIELDS + 5) <= program
        low = tl.where(before, middle, low)
        high = tl.where(before, high, middle)
    item = items + low * ITEM_FIELDS
    out, base = tl.load(item), tl.load(item + 1)
    count, start = tl.load(item + 2), tl.load(item + 3)
    parameter, first = tl.load(item + 4), tl.load(item + 5)
    sums = tl.load(item + 6)
    if distribution == PRODUCT:
        right, width = tl.load(item + 7), tl.load(item + 8)
        inner, first_row, rows = tl.load(item + 9), tl.load(item + 10), tl.load(item + 11)

    first_group = start // (TILE * tiles) + (program - first) * groups
    last_group = tl.minimum(first_group + groups, (start + count - 1) // (TILE * tiles) + 1)
    offset = tl.arange(0, tiles)[:, None]  # [tiles, 1]
    lane = tl.arange(0, LANES)[None, :]  # [1, LANES]
    block = (offset * LANES + lane).to(tl.uint32)
    place = offset * TILE + lane
    for number_of_group in range(last_group - first_group):
        tile = (first_group + number_of_group) * tiles
        beyond = tile * TILE - start  # of the item's elements, those before the group's first
        lowest = tl.maximum(-beyond, 0).to(tl.int32)
        highest = tl.minimum(count - beyond, TILE * tiles).to(tl.int32)
        if distribution == TOTAL:
            totals = _given(sums, beyond, place, lowest, highest, code)
        elif distribution == PRODUCT:
            totals = _products(sums, right, first_row, rows, width, inner, tile * TILE, place, code)
        else:
            totals = _directions(
                terms, term_count, tile, offset, lane, parameter, k0, k1, code, distribution, tiles, native
            )
        d0, d1, d2, d3 = block, block, block, block
        if stochastic:
            d0, d1, d2, d3 = _philox(tile * LANES, block, parameter, rounding_step, item_count * 0 + ROUNDING, k0, k1)

        size = 8 if code == F64 else 4 if code == F32 else 2
        to, of = out + beyond * size, base + beyond * size
        also = sums + beyond * size  # read where ``mirrored``
        draws = (d0, d1, d2, d3)
        if (lowest == 0) & (highest == TILE * tiles):  # all but the item's ends
            _move_tiles(
                to, also, of, place, lowest, highest, True, totals, draws, decay, code, stochastic, native, mirrored
            )
        else:
            _move_tiles(
                to, also, of, place, lowest, highest, False, totals, draws, decay, code, stochastic, native, mirrored
            )


@triton.jit
def _move_tiles(
    out,
    mirror,
    base,
    place,
    lowest,
    highest,
    whole: tl.constexpr,
    totals,
    draws,
    decay,
    code: tl.constexpr,
    stochastic: tl.constexpr,
    native: tl.constexpr,
    mirrored: tl.constexpr,
):
    """Read, move and write the eight runs of lanes that a tile has, two to a draw."""
    # All are read before any is written: the compiler, which does not know that places differ, could not do that.
    olds = _read_tiles(base, place, lowest, highest, whole, code)
    for run in tl.static_range(8):
        draw = draws[run // 2] & 0xFFFF if run % 2 == 0 else draws[run // 2] >> 16
        new = _moved(olds[run], totals[run], draw, decay, code, stochastic, native)
        _write(out, place + run * LANES, lowest, highest, whole, new, code)
        if mirrored:  # from zero, as negated products are summed: so a sum of zero keeps its sign
            opposite = _moved(olds[run], 0.0 - totals[run], draw, decay, code, stochastic, native)
            _write(mirror, place + run * LANES, lowest, highest, whole, opposite, code)
