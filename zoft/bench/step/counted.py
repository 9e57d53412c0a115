"""What one forward computes and reads, counted while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from zoft.bench.step.roofline import Work

__all__ = ["count_forward"]

_aten = torch.ops.aten
_LOOK_UPS = (_aten.embedding, _aten.index_select, _aten.index, _aten.gather)  # read as much as they return


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


# Torch counts attention on GPUs and not on CPUs: the same formula for the latter's kernel.
_CPU_ATTENTION = {_aten._scaled_dot_product_flash_attention_for_cpu: _attention}


def count_forward(model: nn.Module, loss: Callable[[], Tensor]) -> Work:
    """Return the FLOPs of a forward's products, and the bytes of the weights that it reads, each counted once.

    Call the loss once before: its first call may do more than those that follow.
    """
    # Not inference_mode, in which operations come whole that are made of others.
    flops, reads = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION), _WeightReads(model)
    with torch.no_grad(), flops, reads:
        loss()
    return Work(flops.get_total_flops(), reads.bytes)


class _WeightReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows which weights operations read, while it is entered: of a table that is looked up in, only rows."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        storages = [t.untyped_storage() for t in (*model.parameters(), *model.buffers())]
        self._sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
        self._read = dict.fromkeys(self._sizes, 0)

    @property
    def bytes(self) -> int:
        """Of the weights read so far; what is read again counts once."""
        return sum(min(read, self._sizes[place]) for place, read in self._read.items())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if not getattr(func, "is_view", False):  # a view reads nothing
            for leaf in tree_leaves((args, kwargs)):
                place = leaf.untyped_storage().data_ptr() if isinstance(leaf, Tensor) else None
                if place in self._read:
                    self._read[place] += (output if getattr(func, "overloadpacket", None) in _LOOK_UPS else leaf).nbytes
        return output
