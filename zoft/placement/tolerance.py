"""How far results that other kernels give may be from those of weights that are really moved."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from zoft.parameters import Trainable

# Kernels differ in the last bits, and an output rounded to 16 bits is not that of rounded weights.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}


def tolerance_of(trainables: Sequence[Trainable]) -> float:
    """Return the relative difference that is within rounding for weights of these dtypes."""
    return max(_TOLERANCE[t.parameter.dtype] for t in trainables)
