"""Rules that treat each element of the estimate by itself, with numbers kept for it: momentum, Adam, sign."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from zoft import noise
from zoft.directions import Directions, ElementStates
from zoft.noise import Span, Term
from zoft.noise.blocks import block_size
from zoft.types import StepRecord
from zoft.updates.rule import Group

Elements = Callable[[torch.Tensor, Sequence[torch.Tensor], int], torch.Tensor]
"""``(g, states, count) -> u`` on a block of elements: float32 tensors of one length, states changed in place, and the
number of steps taken, this one included. Elementwise operations only, or the blocks would show."""


class Block(NamedTuple):
    """Neighbouring elements of one weight.

    Attributes:
        span: Where they are: read and written in place.
        states: What is kept for them, a flat view for each kind of number.
    """

    span: Span
    states: list[torch.Tensor]

    def total(self, directions: Directions, terms: Sequence[Term]) -> torch.Tensor:
        """Return ``sum coefficient * z`` at these elements, in the precision that updates are computed in."""
        base = self.span.base
        z = torch.zeros(base.shape, dtype=noise.compute_dtype(base), device=base.device)
        directions.combine([Span(z, z, self.span.parameter, self.span.start)], terms)
        return z


def descend_blocks(
    group: Group, states: ElementStates, record: StepRecord, key: int, rule: Callable[[Block], torch.Tensor]
) -> None:
    """Write ``theta = decay theta - lr rule(block)`` into a group's weights, block by block."""
    for trainable in group.trainables:
        stored = trainable.stored()
        # Elements are numbered in row-major order, so a strided weight goes through a row-major copy.
        flat = stored.tensor.contiguous()
        kept = [stored.runs(state) for state in states.of(trainable)]
        for (run, start), *parts in zip(stored.runs(flat), *kept, strict=True):
            # A block at a time, so that the estimate of a large tensor never stands whole.
            for low, high in _ranges(run.numel(), block_size(run.device)):
                base = run.view(-1)[low:high]
                span = Span(base, base, trainable.number, start + low)
                u = rule(Block(span, [part.view(-1)[low:high] for part, _ in parts]))
                noise.add(
                    span,
                    u * torch.tensor(-group.lr, dtype=u.dtype),
                    decay=group.decay,
                    rounding="stochastic",
                    rounding_step=record.step,
                    key=key,
                )
        if flat.data_ptr() != stored.tensor.data_ptr():
            stored.tensor.copy_(flat)


def _ranges(total: int, block: int) -> Iterator[tuple[int, int]]:
    for low in range(0, total, block):
        yield low, min(low + block, total)


def power(base: float, exponent: int) -> float:
    """Return ``base ** exponent`` by multiplications, which every machine rounds alike, unlike pow."""
    result = 1.0
    while exponent:
        if exponent % 2:
            result *= base
        base, exponent = base * base, exponent // 2
    return result


def adam_direction(
    mean: torch.Tensor, square: torch.Tensor, mean_weight: float, square_weight: float, epsilon: float
) -> torch.Tensor:
    """Return ``(mean / mean_weight) / (sqrt(square / square_weight) + epsilon)``, of the same bits on all devices."""
    # torch's float32 root may be off by one bit; through float64 it is correctly rounded.
    root = _divided(square, square_weight).double().sqrt_().to(mean.dtype).add_(epsilon)
    return _divided(mean, mean_weight).div_(root)


def _divided(numerator: torch.Tensor, by: float) -> torch.Tensor:
    # By a Python number, torch divides on a CPU and multiplies by its inverse on a GPU.
    return numerator / torch.full((), by, dtype=numerator.dtype, device=numerator.device)


def adam_step(
    g: torch.Tensor, states: Sequence[torch.Tensor], count: int, beta1: float, beta2: float, epsilon: float
) -> torch.Tensor:
    """Adam's step on an estimate, elementwise (Kingma and Ba 2015, Algorithm 1); changes the two states in place."""
    mean, square = states
    mean.mul_(beta1).add_(g * (1.0 - beta1))
    square.mul_(beta2).add_(g * g * (1.0 - beta2))
    return adam_direction(mean, square, 1.0 - power(beta1, count), 1.0 - power(beta2, count), epsilon)


class Elementwise:
    """``theta = decay theta - lr u(g)``."""

    steps_along_gradient = False

    def __init__(self, elements: Elements, num_states: int, key: int) -> None:
        """Make a rule without history.

        Args:
            elements: The rule, on a block of elements.
            num_states: Numbers that it keeps for each element, zeros at the start.
            key: The run's noise key, for the rounding bits.
        """
        self._elements, self._key = elements, key
        self._count = 0
        self._states = ElementStates(num_states, 0.0)

    def state_size(self, shape: torch.Size) -> int:
        """See :class:`zoft.updates.Rule`."""
        return self._states.count * shape.numel()

    def descend(
        self, directions: Directions, groups: Sequence[Group], gradient: Sequence[Term], record: StepRecord
    ) -> None:
        """See :class:`zoft.updates.Rule`."""
        self._count += 1

        def rule(block: Block) -> torch.Tensor:
            return self._elements(block.total(directions, gradient), block.states, self._count)

        for group in groups:
            descend_blocks(group, self._states, record, self._key, rule)

    def state_dict(self) -> dict[str, Any]:
        """See :class:`zoft.updates.Rule`."""
        return {"count": self._count, "states": self._states.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`zoft.updates.Rule`."""
        self._count = int(state["count"])
        self._states.load_state_dict(state["states"])
