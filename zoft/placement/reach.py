"""Prove that a placement which shows modules other weights than their own reaches all, on the model and batch at hand.

A parameter that is read past its owner's forward (fused encoder layers do this, and losses that multiply by the
weights of a head themselves) would be evaluated unperturbed, silently. So, once: scramble all weights, let the
placement unscramble what it hands out, and evaluate. Whatever is read past it is then off by many orders
of magnitude, so the loss is the plain one if, and only if, everything that matters to it is reached. Scrambling
flips a few bits of each element: no copy is needed, and doing it twice gives the weights back exactly.

A loss with few possible values (an error rate, a reward) is often the same by chance. So what the modules return that
the loss calls is compared too, by its norm.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from zoft.errors import PlacementError, ZoftWarning
from zoft.interrupts import uninterrupted
from zoft.noise import Rounding, Span, Term
from zoft.parameters import Trainable
from zoft.placement.evaluated import single
from zoft.placement.wrapping import watched_forwards
from zoft.types import LossFn

_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}
# The exponent's highest bit turns zeros into twos and what is below two into 2^128 (float16: 2^16) times as much.
# The two highest bits of the mantissa make that more than a change of scale, which a normalisation would undo.
_FLIPPED = {
    torch.bfloat16: 0x4060,
    torch.float16: 0x4300,
    torch.float32: 0x4060_0000,
    torch.float64: 0x400C_0000_0000_0000,
}
# Streamed and plain weights go through the same arithmetic, up to how a matrix product is blocked.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 2e-3, torch.float16: 5e-4}


def _scramble(weight: torch.Tensor) -> None:
    """Flip bits of every element in place; the second time gives the weight back."""
    weight.view(_INTEGER[weight.dtype.itemsize]).bitwise_xor_(_FLIPPED[weight.dtype])


class Unscrambling:
    """Takes the place of ``Directions``: what a placement hands out is unscrambled instead of perturbed."""

    def combine(
        self,
        spans: Sequence[Span],
        terms: Sequence[Term],
        *,
        decay: float = 1.0,
        rounding: Rounding = "nearest",
        rounding_step: int = 0,
    ) -> None:
        """Copy and unscramble."""
        for span in spans:
            _scramble(span.out.copy_(span.base))

    def combine_rows(
        self, out: torch.Tensor, base: torch.Tensor, rows: torch.Tensor, parameter: int, terms: Sequence[Term]
    ) -> None:
        """Copy and unscramble."""
        _scramble(out.copy_(base[rows]))


@contextmanager
def _scrambled(trainables: Sequence[Trainable]) -> Iterator[None]:
    done: list[torch.Tensor] = []
    try:
        with uninterrupted():
            for trainable in trainables:
                weight = trainable.stored().tensor
                _scramble(weight)
                done.append(weight)
        yield
    finally:
        with uninterrupted():
            for weight in done:
                _scramble(weight)


class Probe(Protocol):
    """A placement whose directions are :class:`Unscrambling`, and that notes which modules run."""

    name: str

    def session(self) -> AbstractContextManager[None]:
        """See :class:`zoft.placement.Placement`."""

    def at(self, terms: Sequence[Term]) -> AbstractContextManager[None]:
        """See :class:`zoft.placement.Placement`."""

    def uncalled(self) -> list[str]:
        """Names of parameters in modules that have not run since this object was made."""

    def unused(self) -> list[str]:
        """Names of parameters none of whose owners has run since this object was made."""


def prove_reach(probe: Probe, trainables: Sequence[Trainable], loss_fn: LossFn, otherwise: str) -> bool:
    """Check that the loss depends on the weights only through what a placement hands out.

    Args:
        probe: The placement, over a model in evaluation mode.
        trainables: The parameters that must be reached.
        loss_fn: A closure over one real batch.
        otherwise: What to do if some parameter is not reached, for the message.

    Returns:
        False if nothing can be said, because the plain loss is not finite.

    Raises:
        PlacementError: If some parameter is not reached; names those whose owners never ran.
    """
    plain = _Seen.of(loss_fn)
    try:
        with _scrambled(trainables), probe.session(), probe.at([Term(0, 0, 1.0)]):
            seen = _Seen.of(loss_fn)
        streamed = f"is {seen.loss}" if seen.loss != plain.loss else "is the same, but not what the model returns"
    except (ArithmeticError, LookupError, RuntimeError, ValueError) as error:
        # Also what indices, distributions and decompositions say of absurd numbers.
        seen, streamed = _Seen(math.nan), f"raises {error!r}"
    if not math.isfinite(plain.loss):
        return False
    tolerance = max(_TOLERANCE[t.parameter.dtype] for t in trainables)
    if seen.is_like(plain, tolerance):
        unused = probe.unused()
        if unused:
            warnings.warn(
                f"{_listed(unused)}: trained, but the loss does not depend on them (their modules never run). "
                "Their updates would be noise: freeze them or use exclude=[...].",
                ZoftWarning,
                stacklevel=2,
            )
        return True
    again = _Seen.of(loss_fn)
    if not again.is_like(plain, tolerance):
        raise PlacementError(
            f"the loss is not deterministic: the same batch at the same weights gave {plain.loss} and {again.loss}. "
            "A zeroth-order estimate needs both signs to see the same randomness: turn off sampling and dropout "
            "in the loss, and let the closure use one fixed batch."
        )
    bypassed = _listed(probe.uncalled()) or "some parameter"
    raise PlacementError(
        f"placement {probe.name!r} does not reach {bypassed}: its values are read past the forward of the module that "
        f"owns it (the loss is {plain.loss}; with weights scrambled everywhere but in such forwards it {streamed}). "
        f"{otherwise}"
    )


@dataclass(frozen=True)
class _Seen:
    """What one evaluation shows: the loss, and the norms of what the modules that it calls return at first.

    Only at first: what a model is asked next may depend on what it chose, and a choice between equals on rounding.
    """

    loss: float
    norms: tuple[float, ...] = ()

    @classmethod
    def of(cls, loss_fn: LossFn) -> _Seen:
        """Evaluate a loss."""
        norms: list[float] = []
        seen: set[nn.Module] = set()
        depth = 0

        def enter(module: nn.Module) -> None:
            nonlocal depth
            depth += 1

        def leave(module: nn.Module, output: object) -> None:
            nonlocal depth
            depth -= 1
            if depth == 0 and module not in seen:
                seen.add(module)
                leaves = [leaf.detach() for leaf in tree_leaves(output) if torch.is_tensor(leaf)]
                floats = [leaf for leaf in leaves if leaf.is_floating_point()]
                norms.extend(float(torch.linalg.vector_norm(leaf, dtype=torch.float64)) for leaf in floats)

        with watched_forwards(enter, leave):
            loss = float(single(loss_fn()))
        return cls(loss, tuple(norms))

    def is_like(self, other: _Seen, tolerance: float) -> bool:
        """Whether the other evaluation shows the same, up to rounding."""
        if len(self.norms) != len(other.norms):
            return False
        pairs = zip((self.loss, *self.norms), (other.loss, *other.norms), strict=True)
        return all(_same(mine, theirs, tolerance) for mine, theirs in pairs)


def _same(a: float, b: float, tolerance: float) -> bool:
    if not math.isfinite(b):  # what is returned for padding, say
        return a == b or (math.isnan(a) and math.isnan(b))
    return abs(a - b) <= tolerance * max(1.0, abs(b))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
