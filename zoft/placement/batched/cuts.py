"""Which modules are run once for all points: found by watching one evaluation of the loss.

Such a module (a *cut*) holds owners of trained parameters, and returns something for each row of the batch that is no
wider than what flows inside: a model's layers, but not its head over a vocabulary, whose outputs for all points at once
would take more memory than they save time, and not what returns a mean loss, in which rows can no longer be told apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from zoft.errors import PlacementError
from zoft.placement.wrapping import watched_forwards
from zoft.types import LossFn


@dataclass(eq=False)
class _Call:
    """One call of a module, or the whole evaluation.

    Attributes:
        module: The module; None for the evaluation.
        owns: Whether it owns trained parameters.
        inner: The calls inside that own some, or have such calls inside.
        width: Size of the last dimension of the widest tensor that it returned; None where rows are not told apart.
        leaves: How many calls of modules without modules inside it made, its own included.
    """

    module: nn.Module | None
    owns: bool = False
    inner: list[_Call] = field(default_factory=list)
    width: int | None = None
    leaves: int = 0

    @property
    def is_leaf(self) -> bool:
        """Whether there are no modules inside."""
        return self.module is not None and next(self.module.children(), None) is None

    def chain(self) -> list[_Call]:
        """Return this call and those inside that hold all that it holds, from the outermost to the innermost."""
        chain = [self]
        while not chain[-1].owns and len(chain[-1].inner) == 1:
            chain += chain[-1].inner
        return chain


def find_cuts(owners: Collection[nn.Module], loss_fn: LossFn) -> list[nn.Module]:
    """Evaluate the loss and return the modules to run once for all points, in the order of their calls.

    Args:
        owners: Modules that own trained parameters.
        loss_fn: A closure over one real batch.

    Raises:
        PlacementError: If there are none.
    """
    whole = _watch(owners, loss_fn)
    cuts = [call for call in _cuts(whole) if call.leaves > 1]
    cuts = [call for call in cuts if _width_of(call) <= _width_of(cuts[0])]  # a head of several layers is no cut
    if 2 * sum(call.leaves for call in cuts) < whole.leaves:
        raise PlacementError(
            "placement 'batched' found no modules that hold what is trained, do most of the work, and return something "
            "for each row of the batch. Trained prompts and prefixes act before the model's layers and a head behind "
            "them, where one forward for all points would save little. Use placement='auto'."
        )
    return list(dict.fromkeys(call.module for call in cuts if call.module is not None))


def _width_of(call: _Call) -> int:
    assert call.width is not None
    return call.width


def _cuts(call: _Call) -> Iterator[_Call]:
    """Yield the outermost cuts of a call."""
    chain = call.chain()
    last = chain[-1]
    backbone = next((inner.width for inner in last.inner if not inner.is_leaf and inner.width is not None), last.width)
    if last.width is not None and backbone is not None and last.width <= backbone:
        for outer in chain:  # what is around the last one is run once too, as long as it returns no more
            if outer.module is not None and not outer.is_leaf and outer.width is not None and outer.width <= last.width:
                yield outer
                return
    for inner in last.inner:
        yield from _cuts(inner)


def _watch(owners: Collection[nn.Module], loss_fn: LossFn) -> _Call:
    whole = _Call(None)
    running = [whole]

    def enter(module: nn.Module) -> None:
        running.append(_Call(module, owns=module in owners))

    def leave(module: nn.Module, output: object) -> None:
        call = running.pop()
        call.leaves = call.leaves or 1
        running[-1].leaves += call.leaves
        if call.owns or call.inner:
            call.width = _width(output)
            running[-1].inner.append(call)

    with watched_forwards(enter, leave):
        loss_fn()
    return whole


def _width(output: Any) -> int | None:
    tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
    if not tensors or any(tensor.ndim < 2 for tensor in tensors) or len({len(tensor) for tensor in tensors}) > 1:
        return None
    return max(tensor.shape[-1] for tensor in tensors)
