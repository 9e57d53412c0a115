"""Writing a direction over whole parameters, whatever their memory layout."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from zoft.directions.protocol import Combiner
from zoft.noise import Rounding, Span, Term
from zoft.parameters import Trainable


def write_weights(
    directions: Combiner,
    trainables: Sequence[Trainable],
    terms: Sequence[Term],
    *,
    bases: Sequence[torch.Tensor] | None = None,
    decay: float = 1.0,
    rounding: Rounding = "nearest",
    rounding_step: int = 0,
) -> None:
    """Write ``round(decay * base + sum coefficient * z)`` into that part of every parameter that is held here.

    Args:
        directions: Where z comes from.
        trainables: The parameters to write.
        terms: Scaled directions.
        bases: Contiguous tensors to start from, of the shape of each parameter's ``stored().tensor``; the
            parameters themselves if None.
        decay: Factor on the base.
        rounding: See :func:`zoft.noise.combine`.
        rounding_step: See :func:`zoft.noise.combine`.
    """
    spans = []
    strided: list[tuple[torch.Tensor, torch.Tensor]] = []
    for i, trainable in enumerate(trainables):
        stored = trainable.stored()
        weight = stored.tensor
        # Elements are numbered in row-major order, so a strided weight goes through a row-major copy.
        out = weight.contiguous()
        if out is not weight and out.data_ptr() != weight.data_ptr():
            strided.append((weight, out))
        base = out if bases is None else bases[i]
        for (run, start), (from_run, _) in zip(stored.runs(out), stored.runs(base), strict=True):
            spans.append(Span(run, from_run, trainable.number, start))
    directions.combine(spans, terms, decay=decay, rounding=rounding, rounding_step=rounding_step)
    for weight, out in strided:
        weight.copy_(out)
