"""Counter-based noise: one specification (``docs/noise.md``), several bit-identical backends.

All weight arithmetic of zoft is one operation,

    out = round(decay * base + sum_k coefficient_k * z(step_k, query_k)),

which evaluates ``theta + eps z``, moves weights in place, and applies an update over many queries, each in
one pass over memory. :func:`combine` does it for whole parameters or ranges of them, and
:func:`combine_rows` for chosen rows of a matrix (embeddings).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch

from zoft.errors import ConfigError
from zoft.noise import cpu, cuda, reference
from zoft.noise.blocks import blocks_of, rows_of
from zoft.noise.spec import (
    DISTRIBUTIONS,
    NOISE_SPEC_VERSION,
    Distribution,
    Rounding,
    Span,
    Term,
    check_distribution,
    compute_dtype,
    negated,
    run_key,
)

__all__ = [
    "DISTRIBUTIONS",
    "NOISE_SPEC_VERSION",
    "Distribution",
    "Rounding",
    "Span",
    "Term",
    "add",
    "add_products",
    "check_distribution",
    "combine",
    "combine_rows",
    "compute_dtype",
    "negated",
    "orthonormal",
    "product",
    "run_key",
    "sample",
]


def _backend(tensor: torch.Tensor, distribution: Distribution, mirrored: bool = False) -> ModuleType:
    """Pick the implementation for a tensor; a new device's kernels are added here."""
    check_distribution(distribution)
    if not tensor.is_floating_point() or tensor.dtype.itemsize < 2:
        raise ConfigError(
            f"noise works on float32, bfloat16, float16 and float64 tensors, got {tensor.dtype}. "
            "Exclude this parameter from training."
        )
    if cpu.supports(tensor):
        return cpu
    return cuda if cuda.supports(tensor) and (not mirrored or cuda.supports_mirrors(tensor)) else reference


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
    """Write ``round(decay * base + sum_k coefficient_k * z_k)`` to every span's ``out``.

    The arithmetic is float32 (float64 for float64 weights): coefficients and ``decay`` are rounded to it
    first, products are summed in the order of ``terms`` from zero, and the sum is added to
    ``decay * base`` last.

    Args:
        spans: Contiguous runs of parameters, of any mix of dtypes and devices.
        terms: Scaled directions; may be empty.
        key: 64-bit key from :func:`run_key`.
        distribution: ``"gaussian"`` or ``"rademacher"``.
        decay: Factor on the old weights.
        rounding: ``"nearest"`` (ties to even), or ``"stochastic"``: 16-bit results are rounded up with
            probability equal to the remainder, by bits addressed with ``rounding_step``.
        rounding_step: Step number for the rounding bits.
        mirrors: For each span, if for any, where the same with every coefficient negated is written: tensors like
            ``out`` that share no memory with it or ``base``. The noise is made once for both.

    Raises:
        ConfigError: If a dtype is not a 16-, 32- or 64-bit float, an address is out of range, or the
            distribution is unknown.
    """
    batches: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place, span in enumerate(spans):
        if span.out.numel():
            batches.setdefault((span.out.device, span.out.dtype), []).append(place)
    for places in batches.values():
        _backend(spans[places[0]].out, distribution, bool(mirrors)).combine(
            [spans[place] for place in places],
            terms,
            key=key,
            distribution=distribution,
            decay=decay,
            rounding=rounding,
            rounding_step=rounding_step,
            mirrors=[mirrors[place] for place in places] if mirrors else (),
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
    """Write ``base[rows] + sum_k coefficient_k * z_k[rows]`` to ``out``.

    Args:
        out: ``[n, width]``, contiguous, of the dtype of ``base``.
        base: ``[rows, width]``, the whole parameter, contiguous.
        rows: ``[n]``, integer row numbers in range; repeats are allowed.
        parameter: The parameter's number.
        terms: Scaled directions.
        key: 64-bit key from :func:`run_key`.
        distribution: ``"gaussian"`` or ``"rademacher"``.
    """
    if out.numel():
        _backend(base, distribution).combine_rows(out, base, rows, parameter, terms, key=key, distribution=distribution)


def add(span: Span, total: torch.Tensor, *, decay: float, rounding: Rounding, rounding_step: int, key: int) -> None:
    """Write ``round(decay * base + total)`` to ``out``: :func:`combine`, for a sum that is already there.

    Args:
        span: Where to read and write.
        total: The sum, of as many elements as the span, float32 (float64 for float64 weights).
        decay: Factor on the old weights.
        rounding: See :func:`combine`.
        rounding_step: See :func:`combine`.
        key: 64-bit key from :func:`run_key`, for the rounding bits.
    """
    if span.out.numel():
        _adding(span.out).add(span, total, decay, rounding, rounding_step, key)


def add_products(
    spans: Sequence[Span],
    lefts: Sequence[torch.Tensor],
    rights: Sequence[torch.Tensor],
    *,
    decay: float,
    rounding: Rounding,
    rounding_step: int,
    key: int,
) -> None:
    """Write ``round(decay * base + left @ right)`` to every ``out``; products as :func:`product` has them, never whole.

    Args:
        spans: Where to read and write: parts of matrices, of any number of elements, all on one device.
        lefts: For each, ``[n, k]``, k >= 1: the rows of the left matrix in which the span has elements; float32
            (float64 for float64 weights), on that device.
        rights: For each, ``[k, width]``, likewise.
        decay: Factor on the old weights.
        rounding: See :func:`combine`.
        rounding_step: See :func:`combine`.
        key: See :func:`add`.
    """
    fused: dict[torch.dtype, list[tuple[Span, torch.Tensor, torch.Tensor]]] = {}
    for span, left, right in zip(spans, lefts, rights, strict=True):
        if not span.out.numel():
            continue
        if _adding(span.out) is cuda and cuda.can_multiply(left, right):
            fused.setdefault(span.out.dtype, []).append((span, left, right))
        else:
            _add_product(span, left, right, decay, rounding, rounding_step, key)
    for of_dtype in fused.values():
        cuda.add_products(of_dtype, decay, rounding, rounding_step, key)


def _add_product(
    span: Span,
    left: torch.Tensor,
    right: torch.Tensor,
    decay: float,
    rounding: Rounding,
    rounding_step: int,
    key: int,
) -> None:
    width = right.shape[1]
    first_row, _ = rows_of(span, width)
    for block in blocks_of(span, width):
        low, high = rows_of(block, width)
        total = product(left[low - first_row : high - first_row], right).view(-1)
        total = total[block.start - low * width :][: block.out.numel()]
        add(block, total, decay=decay, rounding=rounding, rounding_step=rounding_step, key=key)


def _adding(tensor: torch.Tensor) -> ModuleType:
    """Pick the implementation of :func:`add` for a tensor."""
    return cuda if cuda.supports_adding(tensor) else reference


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return ``left @ right`` with the same bits on every machine: each sum goes from the first product to the last.

    Args:
        left: ``[n, k]``, k >= 1, float32 or float64.
        right: ``[k, m]``, of the same dtype and on the same device.
    """
    if left.device.type != "cpu":
        return reference.product(left, right)
    from zoft.noise._outer import multiply  # compiled when it is first needed

    out = torch.empty(left.shape[0], right.shape[1], dtype=left.dtype)
    multiply(left.contiguous().numpy(), right.contiguous().numpy(), out.numpy())
    return out


def orthonormal(columns: torch.Tensor) -> torch.Tensor:
    """Return the Gram-Schmidt orthonormalisation of a matrix's columns, with the same bits on every machine.

    Args:
        columns: ``[rows, rank]``, float32, on the CPU, of full rank, ``rank <= rows``.

    Returns:
        ``[rows, rank]``, float32.
    """
    from zoft.noise._orthonormal import orthonormalize  # compiled when it is first needed

    work = np.ascontiguousarray(columns.T.numpy(), dtype=np.float64)
    orthonormalize(work)
    return torch.from_numpy(work.T.copy()).float()


def sample(
    count: int,
    *,
    parameter: int,
    step: int,
    query: int,
    key: int,
    distribution: Distribution,
    start: int = 0,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Return ``z[start : start + count]`` of one parameter as float32, for inspection and tests."""
    out = torch.zeros(count, dtype=torch.float32, device=device)
    combine([Span(out, out, parameter, start)], [Term(step, query, 1.0)], key=key, distribution=distribution)
    return out
