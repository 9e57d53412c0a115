"""Kernels of any model, measured without ever holding a Jacobian.

The memory beyond the model's is ``chunk_size`` directions (twice that for ``independent``), whatever the number of
examples, and as many evaluations at once.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.func import vmap
from tqdm import tqdm

from zoft.analysis.nzk.moments import Array, check_kind
from zoft.analysis.nzk.outputs import Outputs, Weights, inner
from zoft.checks import check_count, check_positive
from zoft.engine import evaluating
from zoft.types import ZOConfig

__all__ = ["empirical_kernel", "tangent_kernel"]


def empirical_kernel(
    model: nn.Module,
    x: torch.Tensor,
    *,
    kind: str,
    num_draws: int,
    config: ZOConfig | None = None,
    zo_eps: float | None = None,
    chunk_size: int = 1,
    progress: bool = False,
) -> Array:
    """Average a kernel over draws of the directions that a run with this configuration would use.

    Draw s takes z from query 0 of step s and, where ``kind`` is ``independent``, zeta from query 1. Within a chunk
    every zeta is paired with every z: the average stays unbiased, and its variance falls faster than with the draws.

    Args:
        model: Maps x to one number a row.
        x: ``[n, ...]``.
        kind: One of :data:`zoft.analysis.nzk.KINDS`.
        num_draws: Number of z, >= 1.
        config: Method, seed, distribution and parameters of the run. ``None``: MeZO's.
        zo_eps: None: derivatives by forward-mode differentiation. A number: central differences of that size, for
            models that cannot be differentiated.
        chunk_size: Directions evaluated at once, >= 1, by ``torch.func.vmap`` where more than one.
        progress: Show a bar.

    Returns:
        ``[n, n]``, float64.

    Raises:
        ConfigError: If an argument is out of range, or the model does not return one number a row.
    """
    check_kind(kind)
    check_count("num_draws", num_draws)
    check_count("chunk_size", chunk_size)
    if zo_eps is not None:
        check_positive("zo_eps", zo_eps)
    outputs = Outputs.of(model, ZOConfig("mezo") if config is None else ZOConfig.of(config))
    total = torch.zeros(len(x), len(x), dtype=torch.float64)
    with evaluating(model), torch.no_grad():
        for first in tqdm(range(0, num_draws, chunk_size), desc=f"{kind} kernel", disable=None if progress else True):
            steps = range(first, min(first + chunk_size, num_draws))
            z = outputs.draw([(step, 0) for step in steps])
            slopes = _slopes(outputs, z, x, zo_eps)
            if kind == "step":
                total += slopes.T @ slopes
            elif kind == "shared":
                squares = torch.stack([part.flatten(1).double().square().sum(1) for part in z.values()]).sum(0)
                total += slopes.T @ (squares.cpu()[:, None] * slopes)
            else:
                zeta = outputs.draw([(step, 1) for step in steps])
                total += _slopes(outputs, zeta, x, zo_eps).T @ inner(zeta, z) @ slopes / len(steps)
    mean: Array = (total / num_draws).numpy()
    return mean


def _slopes(outputs: Outputs, stack: Weights, x: torch.Tensor, zo_eps: float | None) -> torch.Tensor:
    """Return ``z_s^T g_i`` as ``[m, n]``, float64 on the CPU."""
    if len(next(iter(stack.values()))) == 1:
        slopes = outputs.along({name: z[0] for name, z in stack.items()}, x, zo_eps)[None]
    else:
        slopes = vmap(lambda z: outputs.along(z, x, zo_eps))(stack)
    return slopes.to("cpu", torch.float64)


def tangent_kernel(model: nn.Module, x: torch.Tensor, config: ZOConfig | None = None) -> Array:
    """Return the tangent kernel ``g_i^T g_j`` of the trained weights, exact, holding one gradient at a time.

    Column j is one backward pass for ``g_j`` and one forward-mode pass along it (Jacot et al. 2018, arXiv 1806.07572).

    Args:
        model: Maps x to one number a row.
        x: ``[n, ...]``.
        config: Names the trained parameters. ``None``: all that require a gradient.

    Returns:
        ``[n, n]``, float64.

    Raises:
        ConfigError: If the model does not return one number a row.
    """
    outputs = Outputs.of(model, ZOConfig.of(config))
    weights = {name: weight.clone().requires_grad_() for name, weight in outputs.weights().items()}
    columns = []
    with evaluating(model), torch.enable_grad():
        # Not torch.func.vjp, which takes ten seconds to import what it does not need here.
        for value in outputs.at(weights, x):
            # A weight that the output does not read has slope zero.
            gradient = torch.autograd.grad(
                value, [*weights.values()], retain_graph=True, allow_unused=True, materialize_grads=True
            )
            columns.append(outputs.along(dict(zip(weights, gradient, strict=True)), x).detach())
    kernel = torch.stack(columns, dim=1).to("cpu", torch.float64).numpy()
    symmetric: Array = np.asarray((kernel + kernel.T) / 2.0)
    return symmetric
