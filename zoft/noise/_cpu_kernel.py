"""The native code behind :mod:`zoft.noise.cpu`: Numba functions, and nothing that Python calls often."""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
import numpy as np
from numba import carray, cfunc, float32, float64, int32, int64, njit, types, uint32, uint64
from numba.extending import intrinsic

from zoft.noise import spec

# --- Bits that Numba has no word for -------------------------------------------------------------------


def _bitcast(source: Any, target: Any, llvm_target: ir.Type) -> Any:
    @intrinsic
    def cast(_context: Any, value: Any) -> Any:
        def generate(_ctx: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], llvm_target)

        return target(source), generate

    return cast


def _address(pointee: Any, llvm_pointee: ir.Type) -> Any:
    @intrinsic
    def as_pointer(_context: Any, value: Any) -> Any:
        def generate(_ctx: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], llvm_pointee.as_pointer())

        return types.CPointer(pointee)(types.uint64), generate

    return as_pointer


_as_float = _bitcast(types.uint32, types.float32, ir.FloatType())
_as_bits = _bitcast(types.float32, types.uint32, ir.IntType(32))
_as_double = _bitcast(types.int64, types.float64, ir.DoubleType())
_pointer_f32 = _address(types.float32, ir.FloatType())
_pointer_f64 = _address(types.float64, ir.DoubleType())
_pointer_u16 = _address(types.uint16, ir.IntType(16))


def _prefetch(write: bool) -> Any:
    @intrinsic
    def ask(_context: Any, address: Any) -> Any:
        """Ask for a cache line ahead of its use."""

        def generate(ctx: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            i32, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
            kind = ir.FunctionType(ir.VoidType(), [pointer, i32, i32, i32])
            hint = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
            # Into every level, as data.
            builder.call(hint, [builder.inttoptr(arguments[0], pointer), i32(int(write)), i32(3), i32(1)])
            return ctx.get_dummy_value()

        return types.none(types.uint64), generate

    return ask


_prefetch_to_read, _prefetch_to_write = _prefetch(False), _prefetch(True)


@intrinsic
def _half_to_float(_context: Any, bits: Any) -> Any:
    def generate(_ctx: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def _float_to_half(_context: Any, value: Any) -> Any:
    def generate(_ctx: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


@intrinsic
def _fetch_add_one(_context: Any, pointer: Any) -> Any:
    """Atomically add one to the int64 that ``pointer`` points to; return what it was."""

    def generate(_ctx: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", arguments[0], ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(types.CPointer(types.int64)), generate


@intrinsic
def _prefer_wide_vectors(_context: Any) -> Any:
    """Let LLVM use 512-bit vectors in the calling function, which it avoids on Intel CPUs of its own accord."""

    def generate(ctx: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        # llvmlite checks names against a list that lacks attributes with a value, hence set.add.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return ctx.get_dummy_value()

    return types.none(), generate


# --- Constants, as typed globals that Numba freezes ----------------------------------------------------


def _f32(bits: int) -> Any:
    return np.uint32(bits).view(np.float32)


_L = spec.LANES
_M0, _M1 = np.uint64(spec.PHILOX_M0), np.uint64(spec.PHILOX_M1)
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)
_W0, _W1 = np.uint32(spec.PHILOX_W0), np.uint32(spec.PHILOX_W1)
_ROUNDS = spec.PHILOX_ROUNDS
_SPLIT = np.uint32(spec.LOG_SPLIT_BITS)
_G0, _G1, _G2, _G3, _G4 = (_f32(bits) for bits in spec.LOG_POLY_BITS)
_S0, _S1, _S2 = (_f32(bits) for bits in spec.SIN_POLY_BITS)
_C0, _C1, _C2 = (_f32(bits) for bits in spec.COS_POLY_BITS)
_MINUS_TWO_LN2, _ANGLE_STEP = _f32(spec.MINUS_TWO_LN2_BITS), _f32(spec.ANGLE_STEP_BITS)
_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
_SIGN = np.uint32(0x80000000)
_TILE_G, _TILE_R = spec.GAUSSIAN_TILE, spec.RADEMACHER_TILE
_CHUNK = spec.RADEMACHER_TILE  # a multiple of both tiles
_RUN_R = spec.LANES * 32
_LINE = np.uint64(64)  # bytes of a cache line; a wrong guess costs speed only
_DIRECTION, _ROUND = spec.PURPOSE_DIRECTION, spec.PURPOSE_ROUNDING
_F32, _BF16, _F16, _F64 = 0, 1, 2, 3  # dtype codes of zoft.noise.cpu
_CALL_HEADER = 12  # numbers before the terms in a call; see combine_parts
_UP24, _DOWN24 = np.float32(2.0**24), np.float32(2.0**-24)
_TINY16, _TWO16 = np.float32(2.0**-14), np.float32(65536.0)

# --- Noise into an L1 buffer ---------------------------------------------------------------------------


@njit(inline="always")
def _philox_tile(words, tile, k0, k1, c1, c2, c3):
    """Fill ``words[4, LANES]`` with the output of the tile's LANES consecutive counters."""
    # Words live in the low halves of 64-bit lanes, whose high halves may hold anything: a 32 x 32 -> 64 bit
    # product reads the low halves only, so a round needs no packing and no masking.
    block = uint64(tile) * uint64(_L)
    first, top = uint32(block), uint32(c1 | uint32(uint32(block >> uint64(32)) << uint32(24)))
    w0, w1, w2, w3 = words[0], words[1], words[2], words[3]
    for lane in range(_L):
        a, b, c, d = uint64(uint32(first + uint32(lane))), uint64(top), uint64(c2), uint64(c3)
        q0, q1 = k0, k1
        for _ in range(_ROUNDS):
            p0, p1 = (a & _LOW) * _M0, (c & _LOW) * _M1
            a, b, c, d = (p1 >> _32) ^ b ^ uint64(q0), p1, (p0 >> _32) ^ d ^ uint64(q1), p0
            q0, q1 = uint32(q0 + _W0), uint32(q1 + _W1)
        w0[lane], w1[lane], w2[lane], w3[lane] = uint32(a), uint32(b), uint32(c), uint32(d)


@njit(inline="always")
def _gaussian_pair(word):
    odd = float32(int32(uint32(uint32(uint32(word >> uint32(1)) & uint32(0x7FFFE)) | uint32(1))))
    shifted = uint32(_as_bits(odd) - _SPLIT)
    exponent = float32(int32(int32(int32(shifted) >> int32(23)) - int32(19)))
    m = float32(_as_float(uint32(uint32(shifted & uint32(0x7FFFFF)) + _SPLIT)) - _ONE)
    mm = float32(m * m)
    # Not by Horner: a CPU cannot look far enough ahead to hide so long a chain.
    p = float32(float32(_G0 + _G1 * m) + float32(mm * float32(float32(_G2 + _G3 * m) + float32(_G4 * mm))))
    radius = float32(np.sqrt(float32(float32(exponent * _MINUS_TWO_LN2) + float32(p * m))))

    angle = float32(float32(float32(int32(int32(word) >> int32(20))) + _HALF) * _ANGLE_STEP)
    y = float32(angle * angle)
    s = _S2
    s = s * y + _S1
    s = s * y + _S0
    s = s * angle
    c = _C2
    c = c * y + _C1
    c = c * y + _C0
    low = _as_float(uint32(_as_bits(float32(radius * float32(c - s))) ^ uint32(word << uint32(31))))
    high = _as_float(uint32(_as_bits(float32(radius * float32(c + s))) ^ uint32(uint32(word << uint32(30)) & _SIGN)))
    return low, high


# Making a chunk's noise takes longer than fetching its weights, but a CPU does not look that far ahead by itself.
# So each step of the making asks for the weights of its elements, and for the places where the results go: from the
# addresses ``base`` and ``out`` on, ``size`` bytes each (0: they have been asked for).


@njit(inline="always")
def _prefetch_bytes(base, out, count):
    for line in range(uint64(0), count, _LINE):
        _prefetch_to_read(base + line)
        _prefetch_to_write(out + line)


@njit
def _add_gaussian(total, words, scale, fresh, first, stop, chunk, k0, k1, c1, c2, c3, base, out, size):
    """``total[first:stop] += scale * z`` for one chunk, from zero if ``fresh``.

    Whole tiles are computed, so the edges may spill.
    """
    _prefer_wide_vectors()
    for t in range(first // _TILE_G, (stop + _TILE_G - 1) // _TILE_G):
        _prefetch_bytes(base, out, uint64(_TILE_G) * size)
        base += uint64(_TILE_G) * size
        out += uint64(_TILE_G) * size
        _philox_tile(words, chunk * (_CHUNK // _TILE_G) + t, k0, k1, c1, c2, c3)
        for q in range(4):
            x = words[q]
            at = t * _TILE_G + q * 2 * _L
            low, high = total[at : at + _L], total[at + _L : at + 2 * _L]
            if fresh:
                for lane in range(_L):
                    z0, z1 = _gaussian_pair(x[lane])
                    low[lane] = _ZERO + float32(scale * z0)
                    high[lane] = _ZERO + float32(scale * z1)
            else:
                for lane in range(_L):
                    z0, z1 = _gaussian_pair(x[lane])
                    low[lane] += float32(scale * z0)
                    high[lane] += float32(scale * z1)


@njit
def _add_rademacher(total, words, scale, fresh, first, stop, chunk, k0, k1, c1, c2, c3, base, out, size):
    """``total[first:stop] += scale * z`` for one chunk, from zero if ``fresh``; whole runs are computed."""
    _philox_tile(words, chunk, k0, k1, c1, c2, c3)
    if fresh:
        total[first // _L * _L : (stop + _L - 1) // _L * _L] = _ZERO
    bits = _as_bits(scale)
    for run in range(first // _L, (stop + _L - 1) // _L):
        _prefetch_bytes(base, out, uint64(_L) * size)
        base += uint64(_L) * size
        out += uint64(_L) * size
        x, shift = words[run // 32], uint32(31 - run % 32)
        part = total[run * _L : run * _L + _L]
        for lane in range(_L):
            part[lane] += _as_float(uint32(bits ^ uint32(uint32(x[lane] << shift) & _SIGN)))


@njit
def _fill_rounding(draws, words, first, stop, chunk, k0, k1, c1, c2, c3):
    for t in range(first // _TILE_G, (stop + _TILE_G - 1) // _TILE_G):
        _philox_tile(words, chunk * (_CHUNK // _TILE_G) + t, k0, k1, c1, c2, c3)
        for q in range(4):
            x = words[q]
            at = t * _TILE_G + q * 2 * _L
            low, high = draws[at : at + _L], draws[at + _L : at + 2 * _L]
            for lane in range(_L):
                low[lane] = x[lane] & uint32(0xFFFF)
                high[lane] = x[lane] >> uint32(16)


# --- Rounding to 16 bits -------------------------------------------------------------------------------


@njit(inline="always")
def _bf16_nearest(value):
    bits = _as_bits(value)
    rounded = uint32(bits + uint32(0x7FFF) + uint32(uint32(bits >> uint32(16)) & uint32(1)))
    quiet = uint32(bits | uint32(0x400000))  # a NaN must not carry into the exponent
    return uint32(quiet if value != value else rounded) >> uint32(16)


@njit(inline="always")
def _f16_stochastic(value, draw):
    carried = uint32(_as_bits(value) + (draw >> uint32(3))) & uint32(0xFFFFE000)
    normal = uint32(_float_to_half(_as_float(uint32(carried))))
    # Below the normal range the spacing of float16 is the constant 2^-24.
    scaled = float32(abs(value) * _UP24)
    units = float32(np.floor(scaled))
    up = float32(float32(int32(draw)) < float32(float32(scaled - units) * _TWO16))
    tiny = _float_to_half(float32(float32(units + up) * _DOWN24))
    tiny_signed = uint32(tiny) | (uint32(_as_bits(value) & _SIGN) >> uint32(16))
    return tiny_signed if abs(value) < _TINY16 else normal


# --- One work item's chunk -----------------------------------------------------------------------------


# Base and output may be the same memory, where LLVM does not vectorise a loop over both. So a loop is over one array
# if they are; and 16-bit weights, whose rounding is long, are folded into the L1 buffer first, which is stored after.


@njit
def _fold_base(code, base, n, total, decay):
    """``total[:n] = base[:n] * decay + total[:n]`` for 16-bit weights."""
    w16 = carray(_pointer_u16(base), n)
    if code == _BF16:
        for i in range(n):
            total[i] += float32(_as_float(uint32(uint32(w16[i]) << uint32(16))) * decay)
    else:
        for i in range(n):
            total[i] += float32(_half_to_float(w16[i]) * decay)


@njit
def _store(code, out, n, total, draws, stochastic):
    """``out[:n] = round(total[:n])`` for 16-bit weights."""
    o16 = carray(_pointer_u16(out), n)
    if code == _BF16:
        if stochastic:
            for i in range(n):
                o16[i] = uint32(_as_bits(total[i]) + draws[i]) >> uint32(16)
        else:
            for i in range(n):
                o16[i] = _bf16_nearest(total[i])
    elif stochastic:
        for i in range(n):
            o16[i] = _f16_stochastic(total[i], draws[i])
    else:
        for i in range(n):
            o16[i] = _float_to_half(total[i])


@njit
def _write(out, base, in_place, total, decay):
    """``out = base * decay + total`` for float32 and float64 weights."""
    if in_place:
        for i in range(len(out)):
            out[i] = out[i] * decay + total[i]
    else:
        for i in range(len(out)):
            out[i] = base[i] * decay + total[i]


@njit
def _write_mirror(out, base, total, decay):
    """``out = base * decay - total`` for float32 and float64 weights."""
    for i in range(len(out)):
        out[i] = base[i] * decay + (total.dtype.type(0.0) - total[i])  # from zero, as negated products are summed


@njit(nogil=True, cache=True)
def _combine_part(items, terms, low, high, code, distribution, k0, k1, decay, stochastic, rounding_step):
    """Process the part ``[low, high)`` of the concatenated work items.

    Cuts inside an item are moved down to a multiple of the chunk, by the same rule for both ends, so that
    neighbouring parts meet exactly.
    """
    words = np.empty((4, _L), np.uint32)
    total = np.zeros(_CHUNK, np.float32)
    total64 = np.zeros(_CHUNK if code == _F64 else 1, np.float64)
    negated = np.empty(_CHUNK, np.float32)
    draws = np.empty(_CHUNK if stochastic else 1, np.uint32)
    decay32 = float32(decay)
    size = int64(4 if code == _F32 else (8 if code == _F64 else 2))
    passed = int64(0)
    for item in range(len(items)):
        out_address, base_address, count, start, parameter_number, mirror_address = items[item]
        begin = min(max(low - passed, int64(0)), count)
        end = min(high - passed, count)
        passed += count
        # A cut at an item's end stays there: moved down, it would give the item's last chunk to two parts.
        if begin < count:
            begin = max(((start + begin) // _CHUNK * _CHUNK) - start, int64(0))
        if end < count:
            end = ((start + end) // _CHUNK * _CHUNK) - start
        at = begin
        parameter = uint32(parameter_number)
        while at < end:
            chunk = (start + at) // _CHUNK
            first = (start + at) - chunk * _CHUNK
            n = min(_CHUNK - first, end - at)
            base, out = uint64(base_address + at * size), uint64(out_address + at * size)
            mirror = uint64(mirror_address + at * size)
            if code == _F64:
                total64[first : first + n] = 0.0
            if len(terms) == 0:
                total[first : first + n] = _ZERO
            for k in range(len(terms)):
                coefficient = _as_double(terms[k, 2])
                fresh = k == 0 or code == _F64
                scale = float32(1.0) if code == _F64 else float32(coefficient)
                c3 = uint32(uint32(terms[k, 1]) | uint32(_DIRECTION << 24))
                asked = uint64(0) if k else uint64(size)
                place = (first, first + n, chunk, k0, k1, parameter, uint32(terms[k, 0]), c3, base, out, asked)
                if distribution == 0:
                    _add_gaussian(total, words, scale, fresh, *place)
                else:
                    _add_rademacher(total, words, scale, fresh, *place)
                if code == _F64:
                    for i in range(first, first + n):
                        total64[i] += float64(total[i]) * coefficient
            if code == _F64:
                w64, o64 = carray(_pointer_f64(base), n), carray(_pointer_f64(out), n)
                if mirror_address:
                    _write_mirror(carray(_pointer_f64(mirror), n), w64, total64[first:], decay)
                _write(o64, w64, base == out, total64[first:], decay)
            elif code == _F32:
                w32, o32 = carray(_pointer_f32(base), n), carray(_pointer_f32(out), n)
                if mirror_address:
                    _write_mirror(carray(_pointer_f32(mirror), n), w32, total[first:], decay32)
                _write(o32, w32, base == out, total[first:], decay32)
            else:
                if stochastic:
                    c3 = uint32(_ROUND << 24)
                    _fill_rounding(draws, words, first, first + n, chunk, k0, k1, parameter, rounding_step, c3)
                of_place = draws[min(first, len(draws)) :]
                if mirror_address:
                    for i in range(first, first + n):
                        negated[i] = _ZERO - total[i]
                    _fold_base(code, base, n, negated[first:], decay32)
                    _store(code, mirror, n, negated[first:], of_place, stochastic)
                _fold_base(code, base, n, total[first:], decay32)
                _store(code, out, n, total[first:], of_place, stochastic)
            at += n


@cfunc(types.void(types.CPointer(types.int64)), cache=True)
def combine_parts(call):
    """Take parts of one call's work until none is left; every thread of a team runs this on the same call.

    ``call`` is an int64 array: next part, number of parts, total elements, number of items, number of terms,
    dtype code, distribution code, low key, high key, stochastic, rounding step, decay (its bits); then for
    each term step, query, coefficient (its bits); then for each item the addresses of its output and its
    base, its length, its start, its parameter, and the address of its mirror (0: none).
    """
    head = carray(call, _CALL_HEADER)
    parts, total, items, terms = head[1], head[2], head[3], head[4]
    whole = carray(call, _CALL_HEADER + 3 * terms + 6 * items)
    term_rows = whole[_CALL_HEADER : _CALL_HEADER + 3 * terms].reshape(terms, 3)
    item_rows = whole[_CALL_HEADER + 3 * terms :].reshape(items, 6)
    while True:
        part = _fetch_add_one(call)
        if part >= parts:
            break
        _combine_part(
            item_rows, term_rows, total * part // parts, total * (part + 1) // parts,
            head[5], head[6], uint32(head[7]), uint32(head[8]), _as_double(head[11]), head[9] != 0, uint32(head[10]),
        )  # fmt: skip
