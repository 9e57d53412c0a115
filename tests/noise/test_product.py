"""Products of thin matrices: the kernel has the reference's bits, whatever the shapes."""

from __future__ import annotations

import pytest
import torch

from zoft import noise
from zoft.noise import reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("inner", [1, 2, 4, 5, 8, 23])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1500), (40, 7), (5, 1024)])
def test_the_kernel_has_the_bits_of_one_product_after_the_other(
    shape: tuple[int, int], inner: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(inner)
    left = torch.randn(shape[0], inner, generator=generator, dtype=dtype)
    right = torch.randn(shape[1], inner, generator=generator, dtype=dtype).T  # strided
    product = noise.product(left, right)
    assert torch.equal(product, reference.product(left, right))
    assert torch.allclose(product, left @ right, rtol=1e-4, atol=1e-4)


def test_zeros_keep_their_sign() -> None:
    left, right = torch.tensor([[-0.0], [0.0]]), torch.tensor([[1.0, -1.0]])
    assert torch.equal(1 / noise.product(left, right), 1 / reference.product(left, right))
