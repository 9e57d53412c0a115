"""How far results that other kernels give may be from those of weights that are really moved."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from zoft.placement.wrapping import watched_forwards

# Kernels differ in the last bits, and an output rounded to 16 bits is not that of rounded weights.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}


def tolerance_of(model: nn.Module, loss_fn: Callable[[], object]) -> float:
    """Return the relative difference that is within rounding for what a loss is computed in.

    That is the coarsest type of the model's weights, trained or not, and of autocast, which only shows inside.
    """
    dtypes = {parameter.dtype for parameter in model.parameters()}
    devices = {parameter.device.type for parameter in model.parameters()}
    devices = {device for device in devices if torch.amp.is_autocast_available(device)}  # on "meta", of offloading, not

    def note(module: nn.Module) -> None:
        dtypes.update(torch.get_autocast_dtype(device) for device in devices if torch.is_autocast_enabled(device))

    with watched_forwards(note, lambda module, output: None):
        loss_fn()
    return max(_TOLERANCE.get(dtype, 0.0) for dtype in dtypes)
