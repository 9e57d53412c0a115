"""``dual``: weights stay where they are, and carry z as a tangent through one forward-mode pass.

While an estimate runs, each module holds dual tensors in place of its trained parameters, so that a forward gives the
loss and its exact derivative along z. Costs a copy of the trained weights for z, and the forward's work twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from zoft.directions import Combiner
from zoft.errors import PlacementError
from zoft.noise import Span, Term
from zoft.parameters import Trainable
from zoft.placement.evaluated import single
from zoft.placement.one_by_one import OneByOne
from zoft.placement.reach import Unscrambling, prove_reach
from zoft.placement.wrapping import require_whole
from zoft.storage import Slot, named_slots
from zoft.types import LossFn


class DualPlacement(OneByOne):
    """The placement of methods that differentiate the loss along z instead of evaluating it beside theta."""

    name = "dual"

    def __init__(self, model: nn.Module, trainables: Sequence[Trainable], directions: Combiner) -> None:
        """Find where each parameter is held.

        Raises:
            ConfigError: If some are sharded or offloaded.
        """
        self._model, self._trainables, self._directions = model, trainables, directions
        require_whole(
            trainables, "forward-mode differentiation", "Use a method that only evaluates the loss (mezo, fzoo, ...)."
        )
        number_of = {t.slot.identity(): t.number for t in trainables}
        # Tied weights are held in several places, and are one dual tensor in all of them.
        places = [(slot, number_of.get(slot.identity())) for slot in named_slots(model).values()]
        self._places = [(slot, number) for slot, number in places if number is not None]

    @contextmanager
    def session(self) -> Iterator[None]:
        """See :class:`zoft.placement.Placement`."""
        # The fused attention kernels have no forward-mode derivative.
        with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
            yield

    def evaluate(self, terms: Sequence[Term], loss_fn: LossFn) -> tuple[float, ...]:
        """See :class:`zoft.placement.Placement`: the loss at theta, and its derivative along ``sum coefficient * z``.

        Raises:
            PlacementError: If there is none.
        """
        duals = []
        for trainable in self._trainables:
            weight = trainable.stored().tensor
            tangent = torch.zeros(weight.shape, dtype=weight.dtype, device=weight.device)
            self._directions.combine([Span(tangent, tangent, trainable.number)], terms)
            duals.append(forward_ad.make_dual(weight, tangent))  # type: ignore[no-untyped-call]
        with _held_instead(self._places, duals):
            try:
                loss = single(loss_fn())
            except (NotImplementedError, RuntimeError) as error:
                if "forward AD" not in str(error) and "forward mode" not in str(error):
                    raise
                raise PlacementError(
                    f"this model's forward cannot be differentiated in forward mode: {error} Use a method that only "
                    "evaluates the loss (mezo, fzoo, ...)."
                ) from error
        primal, tangent = forward_ad.unpack_dual(loss)  # type: ignore[no-untyped-call]
        if tangent is None:
            raise PlacementError(
                "the loss carries no derivative: the closure detaches it, turns it into a number, or does not depend "
                "on the trained weights. Return the loss as the model computes it."
            )
        return float(primal), float(tangent)

    def proved(self, loss_fn: LossFn) -> DualPlacement | None:
        """See :mod:`zoft.placement.reach`."""
        otherwise = "Use a method that only evaluates the loss (mezo, fzoo, ...)."
        probe = _Probe(self._places, self._trainables)
        return self if prove_reach(probe, self._trainables, loss_fn, otherwise) else None


class _Probe:
    """Puts unscrambled copies where :class:`DualPlacement` puts dual tensors."""

    name = DualPlacement.name

    def __init__(self, places: Sequence[tuple[Slot, int]], trainables: Sequence[Trainable]) -> None:
        self._places, self._trainables = places, trainables

    def session(self) -> AbstractContextManager[None]:
        return nullcontext()

    def at(self, terms: Sequence[Term]) -> AbstractContextManager[None]:
        weights = [t.stored().tensor for t in self._trainables]
        copies = [torch.empty_like(weight) for weight in weights]
        spans = [
            Span(*pair, t.number) for pair, t in zip(zip(copies, weights, strict=True), self._trainables, strict=True)
        ]
        Unscrambling().combine(spans, terms)
        return _held_instead(self._places, copies)

    def uncalled(self) -> list[str]:
        return []

    def unused(self) -> list[str]:
        return []


@contextmanager
def _held_instead(places: Sequence[tuple[Slot, int]], tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    """Let modules hold other tensors than their parameters."""
    parameters = [slot.parameter for slot, _ in places]
    try:
        for slot, number in places:
            slot.module._parameters[slot.attribute] = tensors[number]  # type: ignore[assignment]
        yield
    finally:
        for (slot, _), parameter in zip(places, parameters, strict=True):
            slot.module._parameters[slot.attribute] = parameter
