"""One forward of the cuts for several points, of which each evaluation of the loss then takes its own rows.

The loss closure runs once for each point, as ever. In the first of these passes, where it calls a cut, the cut runs
with its inputs repeated for each point; in this pass and in the later ones the call returns the rows of
the pass's point.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from zoft.errors import PlacementError
from zoft.noise import Term
from zoft.placement.batched.uses import mark
from zoft.placement.wrapping import Forward

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout)
_OTHERWISE = "Use placement='auto', or 'stream', which evaluate the points one after the other."

RunWide = Callable[[int, int, Callable[[], Any]], Any]
"""``(points, rows, forward)``: run a wide forward, with the weights of so many points, and so many rows for each."""


@dataclass(frozen=True)
class _Kept:
    """What a cut returned for all points.

    Attributes:
        inputs: Those of the first pass, flat; results of earlier cuts as :class:`_Link`.
        input_spec: How they are nested.
        outputs: Flat, ``[P rows, ...]`` each.
        output_spec: How they are nested.
        rows: Of the batch.
    """

    inputs: list[Any]
    input_spec: TreeSpec
    outputs: list[Any]
    output_spec: TreeSpec
    rows: int


@dataclass(frozen=True)
class _Link:
    """Says that an input is what an earlier cut returned.

    Attributes:
        call: The cut's number in the pass.
        output: Which of its outputs.
    """

    call: int
    output: int


class Together:
    """The points of one wide forward, and the passes that evaluate the loss at them.

    Attributes:
        count: How many of the points are evaluated together; None until the first call of a cut tells how many fit.
    """

    def __init__(self, points: Sequence[Sequence[Term]], room: Callable[[int], int], run: RunWide) -> None:
        """Begin.

        Args:
            points: All that are left to evaluate.
            room: From the tokens of one point's forward to the number of points that fit into one.
            run: Runs a cut.
        """
        self._points, self._room, self._run = points, room, run
        self.count: int | None = None
        self._calls: list[_Kept] = []
        self._running = False
        self._place = -1
        self._next = 0
        self._slices: dict[int, tuple[torch.Tensor, _Link]] = {}  # what this pass was given; ids stay theirs

    def begin_pass(self) -> None:
        """Go on to the next point."""
        self._place, self._next = self._place + 1, 0
        self._slices.clear()

    def end_pass(self) -> None:
        """Take a first pass that called no cut, and so was evaluated as ever, for one point."""
        self.count = self.count or 1

    def call(self, module: nn.Module, original: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what a cut returns for the point of this pass.

        Raises:
            PlacementError: If inputs differ from point to point, or inputs or outputs cannot be told apart by rows.
        """
        if self._running or self.count == 1:
            return original(*args, **kwargs)
        parameters = inspect.signature(type(module).forward).parameters
        if "use_cache" in parameters and list(parameters).index("use_cache") > len(args):
            kwargs = {**kwargs, "use_cache": False}  # keys and values of all points, which nobody asks for
        leaves, spec = tree_flatten((args, kwargs))
        inputs = [self._slices[id(leaf)][1] if id(leaf) in self._slices else leaf for leaf in leaves]
        if self._place == 0:
            if self.count is None:
                self.count = min(len(self._points), self._room(_tokens(leaves)))
                if self.count < 2:
                    self.count = 1
                    return original(*args, **kwargs)
            self._calls.append(self._run_wide(module, original, inputs, leaves, spec))
        elif self._next >= len(self._calls) or not _same(self._calls[self._next], inputs, spec):
            raise PlacementError(
                f"placement 'batched': the inputs of {type(module).__name__} are not the same at all points: they "
                f"depend on trained weights before it or on chance, or it is not always run. {_OTHERWISE}"
            )
        return self._own_rows()

    def _own_rows(self) -> Any:
        number, self._next = self._next, self._next + 1
        kept = self._calls[number]
        own = [
            leaf[self._place * kept.rows : (self._place + 1) * kept.rows] if isinstance(leaf, torch.Tensor) else leaf
            for leaf in kept.outputs
        ]
        self._slices |= {id(leaf): (leaf, _Link(number, i)) for i, leaf in enumerate(own) if torch.is_tensor(leaf)}
        return tree_unflatten(own, kept.output_spec)

    def _run_wide(
        self, module: nn.Module, original: Forward, inputs: list[Any], leaves: list[Any], spec: TreeSpec
    ) -> _Kept:
        assert self.count is not None
        rows = len(_first(leaves))
        wide = [self._repeated(module, leaf, rows) for leaf in inputs]
        self._running = True
        try:
            args, kwargs = tree_unflatten(wide, spec)
            outputs, output_spec = tree_flatten(self._run(self.count, rows, partial(original, *args, **kwargs)))
        finally:
            self._running = False
        for leaf in outputs:
            apart = isinstance(leaf, torch.Tensor) and leaf.ndim > 0 and len(leaf) == self.count * rows
            if not apart and not isinstance(leaf, _PLAIN):
                shown = f"a tensor {list(leaf.shape)}" if isinstance(leaf, torch.Tensor) else f"a {type(leaf).__name__}"
                raise PlacementError(
                    f"placement 'batched': {type(module).__name__} returns {shown} for {rows} rows at {self.count} "
                    f"points, which cannot be told apart by point. {_OTHERWISE}"
                )
        return _Kept(inputs, spec, outputs, output_spec, rows)

    def _repeated(self, module: nn.Module, leaf: Any, rows: int) -> Any:
        """Lay an input out for all points."""
        assert self.count is not None
        if isinstance(leaf, _Link):
            return mark(self._calls[leaf.call].outputs[leaf.output])
        if isinstance(leaf, torch.Tensor):
            return mark(leaf.repeat(self.count, *[1] * (leaf.ndim - 1))) if leaf.ndim and len(leaf) == rows else leaf
        if isinstance(leaf, _PLAIN):
            return leaf
        raise PlacementError(
            f"placement 'batched': {type(module).__name__} takes a {type(leaf).__name__}, which cannot be repeated for "
            f"each point (a cache, as in generation?). {_OTHERWISE}"
        )


def _tensors(leaves: Sequence[Any]) -> Iterator[torch.Tensor]:
    yield from (leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.ndim > 1)


def _first(leaves: Sequence[Any]) -> torch.Tensor:
    first = next(_tensors(leaves), None)
    if first is None:
        raise PlacementError(
            f"placement 'batched': the model takes no tensor with a row for each example. {_OTHERWISE}"
        )
    return first


def _tokens(leaves: Sequence[Any]) -> int:
    """Return rows times length; rows alone where there is no length."""
    first = _first(leaves)
    return first.shape[:2].numel() if first.ndim > 2 or not first.is_floating_point() else len(first)


def _same(kept: _Kept, inputs: Sequence[Any], spec: TreeSpec) -> bool:
    return spec == kept.input_spec and all(_equal(a, b) for a, b in zip(kept.inputs, inputs, strict=True))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a is b or (a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b))
    return type(a) is type(b) and bool(a == b)
