"""Comparison by bit patterns."""

from __future__ import annotations

import torch

INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bit patterns, so that -0.0 differs from 0.0 and NaN equals itself."""
    return tensor.contiguous().view(INTEGER[tensor.element_size()])


def assert_same_bits(a: torch.Tensor, b: torch.Tensor) -> None:
    assert a.dtype is b.dtype
    assert a.shape == b.shape
    differ = (bits(a) != bits(b)).reshape(-1)
    if differ.any():
        first = int(differ.nonzero()[0, 0])
        raise AssertionError(
            f"{int(differ.sum())} of {differ.numel()} elements differ, the first at {first}: "
            f"{a.reshape(-1)[first].item()!r} and {b.reshape(-1)[first].item()!r}"
        )
