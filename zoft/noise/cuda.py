"""Fused GPU kernels of the noise specification (Triton): one pass over memory, one launch for any number of tensors."""

from __future__ import annotations

import itertools
import struct
import warnings
from array import array
from collections.abc import Sequence
from functools import cache, lru_cache, partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch

from zoft.errors import ZoftWarning
from zoft.noise import reference, spec
from zoft.noise.spec import ROUNDINGS, Distribution, Rounding, Span, Term

_DTYPE_CODE = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
_DISTRIBUTION_CODE = {"gaussian": 0, "rademacher": 1}
_TOTAL, _PRODUCT = 2, 3
_MAX_WIDTH, _MAX_FACTOR = 2**20, 2**31  # of a product, whose kernel counts in float32 and int32
_TILE = spec.GAUSSIAN_TILE
_TILES = 16  # of a group, which a program works on at once
_WARPS, _PRODUCT_WARPS = 4, 8
_REGISTERS = 96  # of a thread, so that 20 warps fit into a multiprocessor
_ENOUGH_PROGRAMS = 2048  # to fill a device; beyond that a program has several groups, up to
_MOST_GROUPS = 8
_KEPT, _KEPT_NUMBERS = 4096, 512  # tables that stay on devices, and how long they may be: 16 MiB at most
_FIELDS, _OWN_FIELDS = 12, 6  # numbers of a work item, and of its span; see zoft.noise._triton_kernel
_INT64, _FLOAT64 = struct.Struct("q"), struct.Struct("d")


def supports(tensor: torch.Tensor) -> bool:
    """Whether the kernels can work on this tensor, and do so to the bit; tried once for each device and dtype."""
    return tensor.is_cuda and tensor.dtype in _DTYPE_CODE and _agrees(tensor.device, tensor.dtype, False)


def supports_mirrors(tensor: torch.Tensor) -> bool:
    """Whether :func:`combine` can write mirrors of this tensor, to the bit; see :func:`supports`."""
    return supports(tensor) and _agrees(tensor.device, tensor.dtype, True)


def supports_adding(tensor: torch.Tensor) -> bool:
    """Whether :func:`add` and :func:`add_products` can work on this tensor, to the bit; see :func:`supports`."""
    return supports(tensor) and _adds(tensor.device, tensor.dtype)


@cache
def _agrees(device: torch.device, dtype: torch.dtype, mirrored: bool) -> bool:
    """Hold the kernels against the reference: a compiler that rounds otherwise would break replays silently."""
    if find_spec("triton") is None:
        return False
    base = _trial(device, dtype)
    same = []
    for distribution, rounding in itertools.product(spec.DISTRIBUTIONS, ROUNDINGS):
        results = []
        for backend_combine in (combine, reference.combine):
            out, mirror = torch.zeros_like(base), torch.zeros_like(base)
            backend_combine(
                [Span(out, base, 3, 4000)],
                [Term(1, 0, 1e-3), Term(1, 1, -0.3)],
                key=spec.run_key(0),
                distribution=distribution,
                decay=0.999,
                rounding=rounding,
                rounding_step=1,
                mirrors=[mirror] if mirrored else (),
            )
            results.append(torch.stack([out, mirror]))
        same.append(torch.equal(*results))
    return _says(all(same), device, dtype)


@cache
def _adds(device: torch.device, dtype: torch.dtype) -> bool:
    """See :func:`_agrees`."""
    base, width, key = _trial(device, dtype), 3000, spec.run_key(0)
    span_of = partial(Span, base=base, parameter=3, start=2 * width + 7)
    numbers = _trial(device, spec.compute_dtype(base))
    left, right = numbers[:15].view(5, 3), numbers[-3 * width :].view(3, width)
    total = reference.product(left, right).view(-1)[7:][: base.numel()]
    same = []
    for rounding in ROUNDINGS:
        given, multiplied, expected = (torch.empty_like(base) for _ in range(3))
        add(span_of(given), total, 0.999, rounding, 1, key)
        add_products([(span_of(multiplied), left, right)], 0.999, rounding, 1, key)
        reference.add(span_of(expected), total, 0.999, rounding, 1, key)
        same += [torch.equal(given, expected), torch.equal(multiplied, expected)]
    return _says(all(same), device, dtype)


def _trial(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    # So many that a whole group is among them, and parts of groups on either side.
    return torch.linspace(-3.0, 3.0, 3 * _TILES * _TILE + 5, dtype=torch.float64, device=device).to(dtype)


def _says(agrees: bool, device: torch.device, dtype: torch.dtype) -> bool:
    if not agrees:
        warnings.warn(
            f"the Triton kernels do not give the specified bits for {dtype} on {device}, so the plain torch reference "
            "takes their place, which is much slower. Please report it with your versions of triton, torch and the "
            "driver.",
            ZoftWarning,
            stacklevel=4,
        )
    return agrees


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
    """Fused version of :func:`zoft.noise.combine`; see there. All spans share one dtype and one device."""
    spec.check_addresses(terms, [span.parameter for span in spans], rounding_step)
    call = _Call(terms, key, decay, rounding, rounding_step)
    also: list[tuple[int, ...]] = [(mirror.data_ptr(),) for mirror in mirrors] or [()] * len(spans)
    _move(spans, also, call, _DISTRIBUTION_CODE[distribution], mirrored=bool(mirrors))


def add(span: Span, total: torch.Tensor, decay: float, rounding: Rounding, rounding_step: int, key: int) -> None:
    """Fused version of :func:`zoft.noise.add`; see there."""
    assert total.dtype == spec.compute_dtype(span.base) and total.numel() == span.out.numel()
    total = total.contiguous()  # held until the launch
    _move([span], [(total.data_ptr(),)], _Call((), key, decay, rounding, rounding_step), _TOTAL)


def can_multiply(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether :func:`add_products` can work on these matrices."""
    return right.shape[1] < _MAX_WIDTH and max(left.numel(), right.numel()) < _MAX_FACTOR


def add_products(
    parts: Sequence[tuple[Span, torch.Tensor, torch.Tensor]],
    decay: float,
    rounding: Rounding,
    rounding_step: int,
    key: int,
) -> None:
    """Fused version of :func:`zoft.noise.add_products`, for spans of one dtype with their matrices."""
    held = [(span, left.contiguous(), right.contiguous()) for span, left, right in parts]  # until the launch
    more = []
    for span, left, right in held:
        (rows, inner), width = left.shape, right.shape[1]
        more.append((left.data_ptr(), right.data_ptr(), width, inner, span.start // width, rows))
    _move([span for span, _, _ in held], more, _Call((), key, decay, rounding, rounding_step), _PRODUCT)


class _Call(NamedTuple):
    """What :func:`zoft.noise.combine` takes beside its spans."""

    terms: Sequence[Term]
    key: int
    decay: float = 1.0
    rounding: Rounding = "nearest"
    rounding_step: int = 0


def _move(
    spans: Sequence[Span], more: Sequence[tuple[int, ...]], call: _Call, what: int, *, mirrored: bool = False
) -> None:
    """Launch the kernel on all spans at once.

    Args:
        spans: Of one dtype, on one device.
        more: For each, the numbers of its work item that are not its own.
        call: The rest.
        what: The kernel's ``distribution``.
        mirrored: See the kernel.
    """
    weight = spans[0].out
    counts = [_groups(span.start, span.out.numel()) for span in spans]
    groups = min(_MOST_GROUPS, -(-sum(counts) // _ENOUGH_PROGRAMS))
    items, programs = array("q"), 0
    for span, count, others in zip(spans, counts, more, strict=True):
        place = span.out.data_ptr(), span.base.data_ptr()
        items.extend((*place, span.out.numel(), span.start, span.parameter, programs, *others))
        items.extend([0] * (_FIELDS - _OWN_FIELDS - len(others)))
        programs += -(-count // groups)
    table = _sent(items, weight.device).view(-1, _FIELDS)
    _launch(table, programs, weight, call, groups, what, _TILES, mirrored)


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
    """Fused version of :func:`zoft.noise.combine_rows`; see there. The rows' numbers stay on the GPU."""
    spec.check_addresses(terms, [parameter], 0)
    count, width = out.shape
    size = base.element_size()
    tiles = min(_TILES, 1 << max(0, width // _TILE).bit_length())
    groups = width // (tiles * _TILE) + 2  # a row begins anywhere in one, and is one program's
    place = torch.arange(count, device=base.device)
    row = rows.to(torch.int64)
    table = torch.zeros(count, _FIELDS, dtype=torch.int64, device=base.device)
    table[:, 0] = out.data_ptr() + place * (width * size)
    table[:, 1] = base.data_ptr() + row * (width * size)
    table[:, 2] = width
    table[:, 3] = row * width
    table[:, 4] = parameter
    table[:, 5] = place
    _launch(table, count, base, _Call(terms, key), groups, _DISTRIBUTION_CODE[distribution], tiles, False)


def _groups(start: int, count: int) -> int:
    """Return how many groups of tiles have one of the elements."""
    size = _TILES * _TILE
    return (start + count - 1) // size - start // size + 1


def _launch(
    items: torch.Tensor,
    programs: int,
    weight: torch.Tensor,
    call: _Call,
    groups: int,
    what: int,
    tiles: int,
    mirrored: bool,
) -> None:
    terms, key, decay, rounding, rounding_step = call
    numbers = (len(items), len(terms), key & 0xFFFFFFFF, key >> 32, rounding_step, _bits(decay), groups)
    of_call = array("q", numbers)
    for step, query, coefficient in terms:
        of_call.extend((step, query, _bits(coefficient)))
    native = weight.is_cuda and torch.version.hip is None
    stochastic = rounding == "stochastic" and weight.dtype in (torch.bfloat16, torch.float16)
    constants = _DTYPE_CODE[weight.dtype], what, stochastic, tiles, native, mirrored
    arguments = items, _sent(of_call, weight.device), *constants
    if not weight.is_cuda:  # Triton's interpreter
        _kernel()[(programs,)](*arguments)
        return
    with torch.cuda.device(weight.device):
        _compiled(weight.device, *constants)[(programs, 1, 1)](*arguments)


@cache
def _compiled(
    device: torch.device, code: int, what: int, stochastic: bool, tiles: int, native: bool, mirrored: bool
) -> Any:
    """Compile the kernel for the current device, to launch it without what Triton looks up anew at each launch."""
    numbers = torch.empty(2, dtype=torch.int64, device=device)
    # The specification rounds each operation, so none are fused.
    options: dict[str, Any] = {"num_warps": _PRODUCT_WARPS if what == _PRODUCT else _WARPS, "enable_fp_fusion": False}
    if native and code != _DTYPE_CODE[torch.float64] and what in _DISTRIBUTION_CODE.values():
        options["maxnreg"] = _REGISTERS
    constants = code, what, stochastic, tiles, native, mirrored
    return _kernel().warmup(numbers, numbers, *constants, grid=(1,), **options)


def _kernel() -> Any:
    from zoft.noise._triton_kernel import combine_tiles  # imports Triton, which comes with torch's GPU builds alone

    return combine_tiles


def _sent(numbers: array[int], device: torch.device) -> torch.Tensor:
    """Return numbers on a device; those that were sent lately, as the places of weights are each step, are there."""
    if len(numbers) > _KEPT_NUMBERS:
        return _copied(numbers.tobytes(), device)
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    return _kept(numbers.tobytes(), device, stream)


@lru_cache(maxsize=_KEPT)
def _kept(numbers: bytes, device: torch.device, stream: int) -> torch.Tensor:
    """What is sent on a stream is there for what follows on it, and on no other."""
    return _copied(numbers, device)


def _copied(numbers: bytes, device: torch.device) -> torch.Tensor:
    # Without waiting for the device, which would first have to finish all that it has been given: what is not pinned
    # is copied out before the call returns.
    return torch.frombuffer(bytearray(numbers), dtype=torch.int64).to(device, non_blocking=True)


def _bits(value: float) -> int:
    bits: int = _INT64.unpack(_FLOAT64.pack(value))[0]
    return bits
