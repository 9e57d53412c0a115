"""Counts the bytes of the tensors that are alive, operation by operation.

Under torch's ``FakeTensorMode`` a computation runs without memory or arithmetic: each operation only says what its
result would look like on the device in question, down to what that device's attention kernel keeps for the backward.
So any architecture is followed through its forward, its backward and its optimizer, without a formula for any of them.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["LiveTensors", "pretending"]

_ASKS_FOR_A_VALUE = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.item.default)


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the tensors that operations make while it is entered, until they are gone.

    Memory that a kernel takes and gives back inside one operation is not seen.

    Attributes:
        bytes: Of all that are alive; what several tensors share counts once.
        peak: The most that this has been since the start or `forget`.
        largest: Bytes of the largest single one since then.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak = self.largest = 0
        self._alive: set[int] = set()

    def forget(self) -> None:
        """Let peaks begin from what is alive now."""
        self.peak, self.largest = self.bytes, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "aten":
            # In inference mode operations come whole that are made of others: look at those.
            with self:
                output = func.decompose(*args, **kwargs)
            if output is not NotImplemented:
                return output
        output = func(*args, **kwargs)
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor):
                self._follow(leaf.untyped_storage())
        return output

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
        self._alive.add(key)
        weakref.finalize(storage, self._drop, key, size)
        self.bytes += size
        self.peak, self.largest = max(self.peak, self.bytes), max(self.largest, size)

    def _drop(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.bytes -= size


class _Ones(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers 1 where a value is asked for: no token is padding, an optimizer takes its first step."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return 1 if func in _ASKS_FOR_A_VALUE else func(*args, **(kwargs or {}))


@contextmanager
def pretending(model: nn.Module, device: torch.device) -> Iterator[LiveTensors]:
    """Let what runs inside only pretend to, and follow its tensors.

    Args:
        model: A model on the meta device. From now on its weights and buffers pretend to be on ``device``, and are
            followed like the rest.
        device: One that torch has here, for it is asked how it would compute.
    """
    with torch.random.fork_rng(devices=[]), FakeTensorMode(), _Ones(), LiveTensors() as live:  # type: ignore[no-untyped-call]
        made: dict[int, torch.Tensor] = {}

        def on_device(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in made:  # else it is tied
                empty = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=device)
                is_parameter = isinstance(tensor, nn.Parameter)
                made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
            return made[id(tensor)]

        for module in model.modules():
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    if tensor is not None:
                        held[name] = on_device(tensor)  # type: ignore[assignment]
        made.clear()
        yield live
