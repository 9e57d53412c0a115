"""``batched``: several points are evaluated in one forward, side by side on the batch axis.

The modules that hold what is trained (:mod:`zoft.placement.batched.cuts`) run once for all points, on the batch
repeated for each, so that frozen weights are read once. Inside, each point's rows meet its own trained weights
(:mod:`zoft.placement.batched.uses`). What comes before and after, the loss among it, is evaluated for one point at a
time as under ``stream``. No weight is ever changed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from zoft.directions import Directions
from zoft.errors import PlacementError, ZoftError, ZoftWarning
from zoft.noise import Term
from zoft.parameters import Trainable
from zoft.placement.batched.cuts import find_cuts
from zoft.placement.batched.together import Together
from zoft.placement.batched.uses import Uses
from zoft.placement.batched.weights import Copies, PointWeights
from zoft.placement.evaluated import single
from zoft.placement.protocol import Placement
from zoft.placement.stream import StreamPlacement
from zoft.placement.tolerance import tolerance_of, types_computed_in
from zoft.placement.wrapping import Forward, owners_of, require_whole, wrapped_forwards
from zoft.types import LossFn

# Copies of trained weights for all points count as free up to this share of the model.
_FEW = 1 / 16
_OTHERWISE = "Use placement='auto', or 'stream'."


class BatchedPlacement:
    """For throughput: where a forward waits for weights and not for products, and both signs of one direction."""

    name = "batched"

    def __init__(
        self,
        model: nn.Module,
        trainables: Sequence[Trainable],
        directions: Directions,
        *,
        scratch_bytes: int,
        tokens: int,
    ) -> None:
        """Find the modules that own the trained parameters.

        Args:
            model: The whole model.
            trainables: The parameters that are perturbed.
            directions: Where z comes from.
            scratch_bytes: See ``ZOConfig.scratch_mib``.
            tokens: See ``ZOConfig.batched_tokens``.

        Raises:
            ConfigError: If weights are sharded or offloaded.
        """
        require_whole(trainables, "placement='batched'", _OTHERWISE)
        self._model, self._trainables, self._directions, self._tokens = model, trainables, directions, tokens
        self._stream = StreamPlacement(model, trainables, directions, scratch_bytes=scratch_bytes, units=False)
        self._owners, _ = owners_of(model, trainables)
        size = sum(p.numel() * p.element_size() for p in model.parameters())
        self._copies = Copies(
            trainables,
            limit_bytes=max(scratch_bytes, int(size * _FEW)),
            scratch_bytes=scratch_bytes,
            block_bytes=self._stream.block_bytes,
        )
        self._cuts: list[nn.Module] = []  # none before they are proved
        self._points: Sequence[Sequence[Term]] = ()
        self._together: Together | None = None
        self._seen: list[torch.Tensor] | None = None  # what cuts return in a pass, while this is proved

    @contextmanager
    def session(self) -> Iterator[None]:
        """See :class:`zoft.placement.Placement`."""
        with self._stream.session(), wrapped_forwards(self._cuts, self._wrapped):
            yield

    def evaluate_all(self, points: Sequence[Sequence[Term]], loss_fn: LossFn) -> list[tuple[float, ...]]:
        """See :class:`zoft.placement.Placement`.

        Raises:
            PlacementError: If the loss does not evaluate the same inputs, in the same way, at all points.
        """
        if not self._cuts:
            return self._stream.evaluate_all(points, loss_fn)
        values: list[tuple[float, ...]] = []
        while len(values) < len(points):
            values += self._evaluate_some(points[len(values) :], loss_fn, self._room)
        return values

    def together(self, points: int, tokens: int) -> int:
        """Return how many of so many points are evaluated in one forward, where each has so many tokens."""
        return max(1, min(points, self._tokens // max(1, tokens), self._copies.expected_points(self._copied)))

    def extra_bytes(self, points: int) -> int:
        """Return how much memory it takes beside weights, and beside a forward of so many points' rows together."""
        return self._stream.extra_bytes() + self._copies.extra_bytes(self._copied, points)

    @property
    def _copied(self) -> list[Trainable]:
        """Those that are copied, whole or in blocks; of embeddings, rows alone are made."""
        tables = {id(module.weight) for module in self._owners if isinstance(module, nn.Embedding)}
        return [t for t in self._trainables if id(t.parameter) not in tables]

    def _room(self, tokens: int) -> int:
        return min(self._tokens // max(1, tokens), self._copies.points())

    def _evaluate_some(
        self, points: Sequence[Sequence[Term]], loss_fn: LossFn, room: Callable[[int], int]
    ) -> list[tuple[float, ...]]:
        """Evaluate as many of the points as fit into one forward of the cuts."""
        self._points = points
        self._together = together = Together(points, room, self._run)
        values: list[tuple[float, ...]] = []
        try:
            while together.count is None or len(values) < together.count:
                together.begin_pass()
                with self._stream.at(points[len(values)]):
                    values.append((float(single(loss_fn())),))
                together.end_pass()
        finally:
            self._together, self._points = None, ()
        return values

    def _wrapped(self, module: nn.Module, original: Forward) -> Forward:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._together is None:
                output = original(*args, **kwargs)
            else:
                output = self._together.call(module, original, args, kwargs)
            if self._seen is not None:
                floats = [leaf for leaf in tree_leaves(output) if torch.is_tensor(leaf) and leaf.is_floating_point()]
                self._seen += [leaf.double() for leaf in floats]
            return output

        return forward

    def _run(self, points: int, rows: int, forward: Callable[[], Any]) -> Any:
        weights = PointWeights(self._directions, self._points[:points], self._copies)
        with self._stream.at(()), Uses(self._trainables, weights, points, rows):
            return forward()

    # --- is it right? ------------------------------------------------------------------------------------

    def proved(self, loss_fn: LossFn) -> Placement | None:
        """Compare what two points give in one forward with what weights moved to them give.

        These are moved by ``stream``, after its proof of reach, which takes no copy of the weights.

        Returns:
            None if nothing can be said, because losses are not finite.

        Raises:
            PlacementError: If results differ, or the model or the loss cannot be evaluated at several points at once.
            ConfigError: If copies of weights for all points take too much memory.
        """
        try:
            if self._stream.proved(loss_fn) is None:
                return None
        except PlacementError as error:
            raise PlacementError(f"placement 'batched' reaches weights only where 'stream' does. {error}") from error
        self._cuts = find_cuts(self._owners, loss_fn)
        with types_computed_in(self._model) as types:
            plain = self._shown_apart((), loss_fn)
        points, moved = [], []
        # Far enough that a weight at the wrong point would show, and no further.
        for scale in (1e-2, 1e-1, 1.0):
            further = [(Term(0, 0, scale),), (Term(0, 1, -scale),)]
            shown = [self._shown_apart(point, loss_fn) for point in further]
            if not all(one.isfinite().all() for one in shown):
                break
            points, moved = further, shown
            if all(_distance(one, plain) > 0.05 for one in shown):
                break
        if not points:
            self._cuts = []
            return None
        tolerance = tolerance_of(types)
        for place, (together, one) in enumerate(zip(self._shown_together(points, loss_fn), moved, strict=True)):
            if together.shape != one.shape or not _distance(together, one) <= tolerance:
                raise PlacementError(
                    f"placement 'batched': what {type(self._cuts[0]).__name__} returns at point {place} of two "
                    f"evaluated at once differs by {_distance(together, one):.1e} (relative) from the same with the "
                    f"weights moved, more than {tolerance:.0e}. Rows of the batch depend on each other, or a trained "
                    f"weight is used in a way that is not known. {_OTHERWISE}"
                )
        return self

    def _shown_apart(self, point: Sequence[Term], loss_fn: LossFn) -> torch.Tensor:
        """Evaluate one point by moved weights; return all that the cuts give, flat."""
        self._seen = seen = list[torch.Tensor]()
        try:
            with self.session(), self._stream.at(point):
                loss_fn()
        finally:
            self._seen = None
        return _flat(seen)

    def _shown_together(self, points: Sequence[Sequence[Term]], loss_fn: LossFn) -> Iterator[torch.Tensor]:
        """Evaluate points in one forward, however long the batch; return all that the cuts give at each, flat."""

        def room(tokens: int) -> int:
            if self._tokens < 2 * tokens:
                warnings.warn(
                    f"placement 'batched' holds batched_tokens={self._tokens} tokens in one forward, and this batch "
                    f"has {tokens} at each point: points are evaluated one by one, so that nothing is gained. Use "
                    "placement='auto', or raise batched_tokens if there is memory.",
                    ZoftWarning,
                    stacklevel=2,
                )
            return len(points)

        self._seen = seen = list[torch.Tensor]()
        try:
            with self.session():
                self._evaluate_some(points, loss_fn, room)
        except ZoftError:
            raise
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise PlacementError(
                f"placement 'batched': {type(self._cuts[0]).__name__} cannot be run for two points at once: {error!r}. "
                f"{_OTHERWISE}"
            ) from error
        finally:
            self._seen = None
        each = len(seen) // len(points)
        yield from (_flat(seen[place * each : (place + 1) * each]) for place in range(len(points)))


def _flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the relative distance of two vectors."""
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b).clamp_min(1e-30))
