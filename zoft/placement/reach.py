"""Prove that ``stream`` reaches every parameter, on the model and batch at hand.

A parameter that is read without its owner's forward being called (fused encoder layers do this) would be
evaluated unperturbed, silently. So, once: change every weight a little, evaluate with the weights
themselves changed, evaluate with the same change streamed, and compare. The change is one that can be
undone exactly and without a copy of the weights: the low mantissa bits of large tensors are flipped (doing
it twice gives the weights back); small tensors are saved and moved by a constant fraction of their scale.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from zoft.errors import PlacementError, ZoftWarning
from zoft.interrupts import uninterrupted
from zoft.noise import Rounding, Span, Term
from zoft.parameters import Trainable
from zoft.types import LossFn

_SMALL = 2**16
_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}
# Low mantissa bits to flip, as a share of the mantissa: a relative change of up to about 1%.
_FLIP = {
    torch.bfloat16: 0x3,
    torch.float16: 0x15,
    torch.float32: 0x2AAAA,
    torch.float64: 0x2AAAAAAAAAAAA,
}
# Streamed and moved weights go through the same arithmetic, up to how a matrix product is blocked.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 2e-3, torch.float16: 5e-4}


class _Probe:
    """A change of the weights that is its own inverse on large tensors; quacks like ``Directions``."""

    def __init__(self, trainables: Sequence[Trainable]) -> None:
        self.small = [t for t in trainables if _is_small(t.stored().tensor)]
        self.small_numbers = {t.number for t in self.small}

    def changed(self, base: torch.Tensor, parameter: int, start: int) -> torch.Tensor:
        if parameter in self.small_numbers:
            signs = torch.arange(start, start + base.numel(), device=base.device).remainder(3) - 0.5
            return (base + 0.02 * signs.view(base.shape)).to(base.dtype)
        integer = _INTEGER[base.dtype.itemsize]
        return (base.view(integer) ^ _FLIP[base.dtype]).view(base.dtype)

    def combine(
        self,
        spans: Sequence[Span],
        terms: Sequence[Term],
        *,
        decay: float = 1.0,
        rounding: Rounding = "nearest",
        rounding_step: int = 0,
    ) -> None:
        for span in spans:
            span.out.copy_(self.changed(span.base, span.parameter, span.start))

    def combine_rows(
        self, out: torch.Tensor, base: torch.Tensor, rows: torch.Tensor, parameter: int, terms: Sequence[Term]
    ) -> None:
        width = base.shape[1]
        if parameter in self.small_numbers:
            out.copy_(self.changed(base, parameter, 0)[rows])
        else:
            out.copy_(self.changed(base[rows], parameter, width))


def _is_small(weight: torch.Tensor) -> bool:
    # Flipping mantissa bits leaves zeros where they are, so a tensor of zeros is saved and moved too.
    return weight.numel() <= _SMALL or not weight.any()


@contextmanager
def _moved(probe: _Probe, trainables: Sequence[Trainable]) -> Iterator[None]:
    saved = [(t.stored().tensor, t.stored().tensor.clone(), t.number) for t in probe.small]
    large = [t.stored().tensor for t in trainables if t.number not in probe.small_numbers]

    def flip() -> None:
        for weight in large:
            weight.view(_INTEGER[weight.dtype.itemsize]).bitwise_xor_(_FLIP[weight.dtype])

    flipped = False
    try:
        with uninterrupted():
            flip()
            flipped = True
        for weight, copy, number in saved:
            weight.copy_(probe.changed(copy.contiguous(), number, 0))
        yield
    finally:
        with uninterrupted():
            if flipped:
                flip()
            for weight, copy, _ in saved:
                weight.copy_(copy)


def prove_reach(model: nn.Module, trainables: Sequence[Trainable], loss_fn: LossFn, scratch_bytes: int) -> None:
    """Check that streaming a change of all weights does to the loss what changing them does.

    Args:
        model: The model, in evaluation mode.
        trainables: The parameters that must be reached.
        loss_fn: A closure over one real batch.
        scratch_bytes: The stream's scratch bound.

    Raises:
        PlacementError: If the two losses differ; names the parameters that were not reached, where known.
    """
    from zoft.placement.stream import StreamPlacement

    probe = _Probe(trainables)
    stream = StreamPlacement(model, trainables, probe, scratch_bytes=scratch_bytes)
    with stream.session(), stream.at([Term(0, 0, 1.0)]):
        streamed = float(loss_fn())
    with _moved(probe, trainables):
        moved = float(loss_fn())
    uncalled = stream.uncalled()
    if _same(streamed, moved, trainables):
        if uncalled:
            warnings.warn(
                f"{_listed(uncalled)}: trained, but the loss does not depend on them (their modules never run). "
                "Their updates would be noise: freeze them or use exclude=[...].",
                ZoftWarning,
                stacklevel=2,
            )
        return
    with _moved(probe, trainables):
        again = float(loss_fn())
    if not _same(moved, again, trainables):
        raise PlacementError(
            f"the loss is not deterministic: the same batch at the same weights gave {moved} and {again}. "
            "A zeroth-order estimate needs both signs to see the same randomness: turn off sampling and dropout "
            "in the loss, and let the closure use one fixed batch."
        )
    raise PlacementError(
        f"placement 'stream' does not reach {_listed(uncalled) if uncalled else 'some parameter'}: with all weights "
        f"changed the loss is {moved}, with the same change streamed it is {streamed}. A module reads weights that "
        "it does not own. Use placement='snapshot' (exact, one more copy of the trained weights), or 'auto', "
        "which falls back to it."
    )


def _same(a: float, b: float, trainables: Sequence[Trainable]) -> bool:
    if not (math.isfinite(a) and math.isfinite(b)):
        return math.isnan(a) == math.isnan(b) and (math.isnan(a) or a == b)
    tolerance = max(_TOLERANCE[t.parameter.dtype] for t in trainables)
    return abs(a - b) <= tolerance * max(1.0, abs(a), abs(b))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
