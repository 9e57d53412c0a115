"""Comparison by bit patterns, and what all backends are held to by it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from zoft import noise
from zoft.noise import Distribution, Rounding, Span, Term, reference

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


def check_mirrors(
    combine: Callable[..., None], base: torch.Tensor, distribution: Distribution, rounding: Rounding
) -> None:
    """A mirror has the bits that negated coefficients give, and the output those that it has without one."""
    base = base.clone()
    base[::7], base[1::7] = 0.0, -0.0
    options = {"key": noise.run_key(3), "distribution": distribution, "decay": 0.999, "rounding": rounding}
    for terms in ([Term(3, 0, 1e-3), Term(3, 1, -0.7)], [], [Term(0, 0, 0.0)], [Term(0, 0, -0.0)]):
        out, mirror, want, opposite = (torch.full_like(base, float("nan")) for _ in range(4))
        combine([Span(out, base, 1, 77)], terms, rounding_step=2, mirrors=[mirror], **options)
        negated = [term._replace(coefficient=-term.coefficient) for term in terms]
        for expected, of in ((want, terms), (opposite, negated)):
            reference.combine([Span(expected, base, 1, 77)], of, rounding_step=2, **options)  # type: ignore[arg-type]
        assert_same_bits(out, want)
        assert_same_bits(mirror, opposite)
