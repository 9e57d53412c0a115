"""How far results that other kernels give may be from those of weights that are really moved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from zoft.placement.wrapping import watched_forwards

# Kernels differ in the last bits, and an output rounded to 16 bits is not that of rounded weights.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}


@contextmanager
def types_computed_in(model: nn.Module) -> Iterator[set[torch.dtype]]:
    """Collect the types that a loss is computed in while it is evaluated inside.

    These are the model's weights', trained or not, and autocast's, which only shows within a forward.
    """
    types = {parameter.dtype for parameter in model.parameters()}
    devices = {parameter.device.type for parameter in model.parameters()}
    devices = set(filter(torch.amp.is_autocast_available, devices))  # on "meta", of offloading, it is not

    def note(module: nn.Module) -> None:
        types.update(torch.get_autocast_dtype(device) for device in devices if torch.is_autocast_enabled(device))

    with watched_forwards(note, lambda module, output: None):
        yield types


def tolerance_of(types: Iterable[torch.dtype]) -> float:
    """Return the relative difference that is within rounding for what is computed in these types."""
    return max(_TOLERANCE.get(dtype, 0.0) for dtype in types)
