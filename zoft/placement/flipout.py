"""``flipout``: every example of a batch is evaluated at weights moved along a direction of its own, all at once.

While an estimate runs, modules that own trained parameters add to their outputs what the examples' directions add: for
a linear map ``W + c r_i s_i^T * U`` that is ``c r_i * U (s_i * x_i)`` (Wen et al. 2018, arXiv 1803.04386, equation 4).
So a batch costs one more product a module, whatever its size, and no weight is ever changed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from zoft.directions import Directions, FlipoutDirections
from zoft.errors import ConfigError, PlacementError, ZoftWarning
from zoft.examples import at_place
from zoft.noise import Term
from zoft.parameters import Trainable
from zoft.placement.flipped import Flip, Flipped
from zoft.placement.one_by_one import OneByOne
from zoft.placement.protocol import Placement
from zoft.placement.snapshot import SnapshotPlacement
from zoft.placement.tolerance import tolerance_of, types_computed_in
from zoft.placement.wrapping import Forward, owners_of, require_whole, wrapped_forwards
from zoft.types import LossFn


class _Places:
    """Which of a step's examples a batch holds: they follow one another, in this process's part of all places."""

    def __init__(self, part: int, parts: int) -> None:
        self._part, self._parts = part, parts
        self._step, self._taken, self._count = -1, 0, 0

    def first(self, terms: Sequence[Term], count: int) -> int:
        """Return the place of the first of the present batch's ``count`` examples."""
        if terms[0].step != self._step:
            self._step, self._taken = terms[0].step, 0
        size = len(terms) // self._parts
        if self._taken + count > size:
            raise ConfigError(
                f"a step has {self._taken + count} examples in this process, more than its {size} places: raise "
                f"num_queries, now {len(terms)} for all {self._parts} of them together."
            )
        self._count = count
        return self._part * size + self._taken

    def done(self) -> None:
        """Go on behind the present batch."""
        self._taken += self._count


class FlipoutPlacement(OneByOne):
    """The placement of methods that give each example a direction of its own."""

    name = "flipout"

    def __init__(
        self, model: nn.Module, trainables: Sequence[Trainable], directions: Directions, part: int, parts: int
    ) -> None:
        """Find the modules that own the trained parameters.

        Raises:
            ConfigError: If weights are sharded or offloaded.
        """
        assert isinstance(directions, FlipoutDirections)
        require_whole(
            trainables,
            "a direction for each example",
            "Use a method with one direction for the whole batch (mezo, fzoo, ...).",
        )
        self._model, self._trainables, self._directions = model, trainables, directions
        self._owners, self._names = owners_of(model, trainables)
        self._flipped: dict[nn.Module, Flipped] = {}  # once a loss turned out to be of examples
        self._places = _Places(part, parts)
        self._rows_per_example = 1
        self._terms: Sequence[Term] = ()
        self._rows = 0  # of the forward that is running; 0 before its first module

    @contextmanager
    def session(self) -> Iterator[None]:
        """See :class:`zoft.placement.Placement`."""
        with wrapped_forwards(list(self._owners), self._wrapped):
            yield
        self._places.done()

    def evaluate(self, terms: Sequence[Term], loss_fn: LossFn) -> tuple[float, ...]:
        """See :class:`zoft.placement.Placement`: each example's share of the mean loss, at its place.

        Raises:
            ConfigError: If there are more examples than places.
            PlacementError: If the batch's rows cannot be parted into examples.
        """
        losses = self._losses(terms, loss_fn)
        first = self._places.first(terms, len(losses))
        shares = [at_place(share) for share in (losses.double() / len(losses)).tolist()]
        return (*[0.0] * first, *shares, *[0.0] * (len(terms) - first - len(losses)))

    def _losses(self, terms: Sequence[Term], loss_fn: LossFn) -> torch.Tensor:
        self._terms, self._rows = terms, 0
        try:
            losses = loss_fn()
        finally:
            self._terms = ()
        if losses.ndim != 1 or len(losses) * self._rows_per_example != self._rows:
            raise PlacementError(
                f"a batch of {self._rows} rows, {self._rows_per_example} for each example, gave losses of shape "
                f"{tuple(losses.shape)}: the closure must return one loss for each example, in the batch's order."
            )
        return losses

    def _wrapped(self, module: nn.Module, original: Forward) -> Forward:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if not self._rows:
                self._rows = next((len(x) for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)), 0)
            if not self._terms:
                return original(*args, **kwargs)
            examples = self._rows // self._rows_per_example
            first = self._places.first(self._terms, examples)
            flip = Flip(self._terms[first : first + examples], self._rows)
            return self._flipped[module](flip, original, args, kwargs)

        return forward

    # --- is it right? ------------------------------------------------------------------------------------

    def proved(self, loss_fn: LossFn) -> Placement | None:
        """Compare two examples' losses with those of the batch at weights that are moved for them.

        Returns:
            A placement that moves weights whole, if the closure returns one number; None if losses are not finite.

        Raises:
            PlacementError: If some module cannot be flipped, or examples depend on each other.
        """
        with types_computed_in(self._model) as types:
            plain = loss_fn()
        if plain.ndim == 0:
            warnings.warn(
                "the loss closure returns one number, so that each (micro-)batch counts as one example. For a "
                "direction for each, return the losses of the examples, a tensor [B].",
                ZoftWarning,
                stacklevel=2,
            )
            return _WholePlacement(self._trainables, self._directions, self._places)
        with wrapped_forwards(list(self._owners), self._wrapped):
            self._rows = 0
            loss_fn()
        if not self._rows or self._rows % len(plain):
            raise PlacementError(f"a batch of {self._rows} rows gave {len(plain)} losses; it must be a multiple.")
        self._rows_per_example = self._rows // len(plain)
        for module, owned in self._owners.items():
            self._flipped[module] = Flipped(module, owned, self._names, self._directions)
        if not plain.isfinite().all():
            return None
        terms = [Term(0, place, 1e-2) for place in range(len(plain))]
        with wrapped_forwards(list(self._owners), self._wrapped):
            places, self._places = self._places, _Places(0, 1)
            try:
                flipped = self._losses(terms, loss_fn)
            finally:
                self._places = places
        tolerance = tolerance_of(types)
        snapshot = SnapshotPlacement(self._trainables, self._directions)
        for place in {0, len(plain) - 1}:
            with snapshot.session(), snapshot.at([terms[place]]):
                moved = loss_fn()[place]
            error = abs(float(flipped[place] - moved))
            if not error <= tolerance * max(1.0, abs(float(moved))) + 0.02 * abs(float(moved - plain[place])):
                raise PlacementError(
                    f"placement 'flipout': example {place} has the loss {float(flipped[place])}, and {float(moved)} "
                    "with the weights moved along its direction. Its loss depends on other examples, or a weight is "
                    "read past its module. Use a method with one direction for the whole batch (mezo, fzoo, ...)."
                )
        return self


class _WholePlacement(OneByOne):
    """Takes each batch for one example, for which weights are moved whole."""

    name = "flipout"

    def __init__(self, trainables: Sequence[Trainable], directions: Directions, places: _Places) -> None:
        self._snapshot, self._places = SnapshotPlacement(trainables, directions), places

    @contextmanager
    def session(self) -> Iterator[None]:
        """See :class:`zoft.placement.Placement`."""
        with self._snapshot.session():
            yield
        self._places.done()

    def evaluate(self, terms: Sequence[Term], loss_fn: LossFn) -> tuple[float, ...]:
        """See :class:`zoft.placement.Placement`: the loss, at its place."""
        place = self._places.first(terms, 1)
        values = [0.0] * len(terms)
        (loss,) = self._snapshot.evaluate([terms[place]], loss_fn)
        values[place] = at_place(loss)
        return tuple(values)

    def proved(self, loss_fn: LossFn) -> Placement:
        """The parameters themselves are moved."""
        return self
