"""How the time of a step grows with the model and with the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from zoft.bench.memory.available import bytes_needed
from zoft.bench.memory.predicted import predict
from zoft.bench.step.measure import Figures
from zoft.bench.step.roofline import GRADIENT_FORWARDS
from zoft.bench.step.shapes import GROWN
from zoft.bench.step.workload import Workload

__all__ = ["Point", "exponent", "plan", "ratio", "too_large"]


@dataclass(frozen=True)
class Point:
    """Something to measure.

    Attributes:
        along: What grows.
        name: The contender.
        workload: Its model and batch.
    """

    along: Literal["parameters", "tokens"]
    name: str
    workload: Workload


def plan(base: Workload, names: Sequence[str], sizes: Sequence[str], batch_sizes: Sequence[int]) -> list[Point]:
    """Return what to measure, from small to large as they are given.

    Args:
        base: Its batch is that of the models that grow, its model that of the batches that grow.
        names: The contenders.
        sizes: Numbers of parameters, such as ``30M``; see `zoft.bench.step.shapes.grown_llama`.
        batch_sizes: Rows of the batches.

    Raises:
        ConfigError: A size or a batch is out of range.
    """
    models = [replace(base, model=f"{GROWN}{size}") for size in sizes]
    batches = [replace(base, batch_size=rows) for rows in batch_sizes]
    return [
        *(Point("parameters", name, workload) for workload in models for name in names),
        *(Point("tokens", name, workload) for workload in batches for name in names),
    ]


def too_large(point: Point, available: int) -> str | None:
    """Return why a point does not fit into memory; None if it does.

    Raises:
        ConfigError: The contender's memory cannot be predicted.
    """
    needed = bytes_needed(predict(point.workload, point.name).total)
    if needed <= available:
        return None
    return f"it may need {needed / 2**30:.1f} GiB, and there are {available / 2**30:.1f} GiB"


def ratio(figures: Figures) -> float:
    """Return a step's time over that of the forwards that it is worth; by gradients these are three."""
    return figures.step_seconds / ((figures.forwards or GRADIENT_FORWARDS) * figures.forward_seconds)


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """Return b of the fit ``value = a * size^b``, by least squares of logarithms; None from fewer than two sizes."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    if len(set(x)) < 2:
        return None
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    spread = math.fsum((one - mean_x) ** 2 for one in x)
    return math.fsum((one - mean_x) * (other - mean_y) for one, other in zip(x, y, strict=True)) / spread
