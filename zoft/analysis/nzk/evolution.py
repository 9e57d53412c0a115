"""How linear models evolve under zeroth-order training on the squared loss, in closed form (``docs/nzk.md``).

``residuals`` are ``r = f - y`` of the n examples at step 0, ``gram`` the tangent kernel, ``a = lr / n``. Everything
holds exactly where gradients are constant (linear models, linearised networks), and to first order elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from zoft.analysis.nzk.moments import Array
from zoft.analysis.nzk.rules import rule_named
from zoft.errors import ConfigError

__all__ = ["expected_losses", "expected_residuals", "loss_floor", "stability_limit", "tuned_lr"]


def expected_residuals(kernel: Array, residuals: Array, lr: float, steps: Sequence[int]) -> Array:
    """Return the mean residuals ``E[r_t] = (I - lr kernel / n)^t r_0``, for any distribution of z.

    Args:
        kernel: ``[n, n]``, the rule's expected kernel; see :func:`zoft.analysis.nzk.expected_kernel`.
        residuals: ``[n]``.
        lr: Learning rate.
        steps: Numbers of steps t, >= 0.

    Returns:
        ``[len(steps), n]``.

    Raises:
        ConfigError: If the kernel is not symmetric, as a measured one of independent vectors may be.
    """
    if not np.allclose(kernel, kernel.T):
        raise ConfigError("kernel must be symmetric; the mean of a measured one and its transpose is.")
    values, basis = np.linalg.eigh(kernel)
    powers = (1.0 - lr * values / len(residuals)) ** np.asarray(steps)[:, None]
    mean: Array = (powers * (basis.T @ residuals)) @ basis.T
    return mean


def expected_losses(gram: Array, residuals: Array, *, rule: str, dimension: int, lr: float, num_steps: int) -> Array:
    """Return the mean loss ``E[sum_j r_j^2 / (2 n)]`` after 0, 1, ... steps, for Gaussian z.

    It is not the loss of the mean residuals: the noise of z adds to it. Along the k-th eigenvector of ``gram``, with
    eigenvalue l_k, and with the rule's coefficients (:meth:`zoft.analysis.nzk.Rule.coefficients`),
    ``m_k = E[r_k^2]`` obeys

        m_k <- (1 - 2 a mean l_k + a^2 square l_k^2) m_k + a^2 trace l_k sum_l l_l m_l.

    ``per_example`` does not decouple, and costs a matrix product a step.

    Args:
        gram: ``[n, n]``, the tangent kernel.
        residuals: ``[n]``.
        rule: A name in :data:`zoft.analysis.nzk.RULES`.
        dimension: Number of trained weights, d.
        lr: Learning rate, >= 0.
        num_steps: Number of steps, >= 0.

    Returns:
        ``[num_steps + 1]``; infinite from where it leaves float64.

    Raises:
        ConfigError: If the rule is unknown.
    """
    n, a = len(residuals), lr / len(residuals)
    mean, square, trace = rule_named(rule).coefficients(dimension)
    totals = np.empty(num_steps + 1)
    with np.errstate(over="ignore", invalid="ignore"):
        if rule == "per_example":
            _per_example_totals(totals, gram, residuals, a)
        else:
            values, basis = _spectrum(gram)
            moments = (basis.T @ residuals) ** 2
            own = 1.0 - 2.0 * a * mean * values + a**2 * square * values**2
            noise = a**2 * trace * values
            for step in range(num_steps + 1):
                totals[step] = moments.sum()
                moments = own * moments + noise * (values @ moments)
    return np.where(np.isfinite(totals), totals, np.inf) / (2.0 * n)


def _per_example_totals(totals: Array, gram: Array, residuals: Array, a: float) -> None:
    """With ``M = E[r r^T]`` and ``D = diag(M)``: ``M <- M - a (K M + M K) + a^2 (K (M + D) K + tr(D K) K)``."""
    moments = np.outer(residuals, residuals)
    for step in range(len(totals)):
        diagonal = moments.diagonal()
        totals[step] = diagonal.sum()
        product = gram @ moments
        noise = (product + gram * diagonal) @ gram + (diagonal @ gram.diagonal()) * gram
        moments = moments - a * (product + product.T) + a**2 * noise
        moments = (moments + moments.T) / 2.0  # what rounding adds to the rest would grow


def loss_floor(gram: Array, residuals: Array) -> float:
    """Return the loss that no step can lower: that of the residuals which the gradients do not span."""
    values, basis = _spectrum(gram)
    return float(((basis.T @ residuals)[values == 0.0] ** 2).sum() / (2.0 * len(residuals)))


def stability_limit(gram: Array, *, rule: str, dimension: int) -> float:
    """Return the learning rate from which on the mean loss grows, for Gaussian z.

    It is the root of ``sum_k a trace l_k / (2 mean - a square l_k) = 1``, where the matrix of
    :func:`expected_losses` gets the eigenvalue 1.

    Args:
        gram: ``[n, n]``, the tangent kernel.
        rule: A name in :data:`zoft.analysis.nzk.RULES` other than ``per_example``.
        dimension: Number of trained weights, d.

    Raises:
        ConfigError: If there is no closed form for the rule.
    """
    mean, square, trace = rule_named(rule).coefficients(dimension)
    if rule == "per_example":
        raise ConfigError("rule='per_example' has no stability limit in closed form; compare expected_losses.")
    values, _ = _spectrum(gram)
    if not values.max() > 0.0:
        return math.inf
    low, high = 0.0, 2.0 * mean / (square * values.max())
    for _ in range(100):
        a = (low + high) / 2.0
        if (a * trace * values / (2.0 * mean - a * square * values)).sum() < 1.0:
            low = a
        else:
            high = a
    return low * len(gram)


def tuned_lr(final_loss: Callable[[float], float], start: float, factor: float = math.sqrt(2.0)) -> float:
    """Return the learning rate with the lowest final loss on the grid ``start factor^k``, k any integer.

    The search goes downhill from ``start``, so it takes the loss to have one minimum in the learning rate.

    Args:
        final_loss: The final loss at a learning rate; infinite where training diverges.
        start: Where to begin, > 0.
        factor: Ratio of neighbours, > 1.
    """
    best, best_loss = start, final_loss(start)
    lower = start
    while (loss := final_loss(lower := lower / factor)) < best_loss or math.isinf(best_loss):
        best, best_loss = lower, loss
    if best == start:
        while (loss := final_loss(best * factor)) < best_loss:
            best, best_loss = best * factor, loss
    return best


def _spectrum(gram: Array) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors, with eigenvalues within rounding of zero set to it."""
    values, basis = np.linalg.eigh(gram)
    return np.where(values < len(values) * np.finfo(np.float64).eps * values.max(), 0.0, values), basis
