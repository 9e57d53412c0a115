"""A GPU kernel that does nothing but turn words into Gaussian values."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from zoft.noise._triton_kernel import _gaussian_pair

_BLOCK = tl.constexpr(1024)


def first_of_pairs(words: torch.Tensor) -> torch.Tensor:
    """Return the first Gaussian value of each word; a multiple of 1024 words, int64, on a GPU."""
    out = torch.empty(len(words), dtype=torch.float32, device=words.device)
    _kernel[(len(words) // _BLOCK.value,)](words, out, enable_fp_fusion=False)
    return out


@triton.jit
def _kernel(words, out):
    place = tl.program_id(0) * _BLOCK + tl.arange(0, _BLOCK)[:, None]
    low, _ = _gaussian_pair(tl.load(words + place).to(tl.uint32), True)
    tl.store(out + place, low)
