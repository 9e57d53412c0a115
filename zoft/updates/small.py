"""Linear algebra on matrices of a few rows, in plain Python: the same bits on every machine, unlike LAPACK's."""

from __future__ import annotations

import math
from collections.abc import Sequence

Matrix = Sequence[Sequence[float]]


def times(matrix: Matrix, vector: Sequence[float]) -> list[float]:
    """Return ``M v``."""
    return [dot(row, vector) for row in matrix]


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    """Return ``a . b``."""
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def solve_positive(matrix: Matrix, right: Sequence[float], damping: float) -> list[float]:
    """Solve ``(M + d I) x = b`` for the least d that makes it safely positive definite, by Cholesky.

    Args:
        matrix: Symmetric, ``[n, n]``.
        right: b, ``[n]``.
        damping: The first d that is tried, > 0; then ten times as much, and so on. No pivot may be below it.

    Returns:
        x, ``[n]``; along it ``x . b >= 0``.
    """
    shift = damping
    while (factor := _cholesky(matrix, shift, damping)) is None:
        shift *= 10.0
    n = len(right)
    forward: list[float] = []
    for i in range(n):
        forward.append((right[i] - dot(factor[i][:i], forward)) / factor[i][i])
    x = [0.0] * n
    for i in reversed(range(n)):
        below = math.fsum(factor[j][i] * x[j] for j in range(i + 1, n))
        x[i] = (forward[i] - below) / factor[i][i]
    return x


def _cholesky(matrix: Matrix, shift: float, least: float) -> list[list[float]] | None:
    """Return the lower factor of ``M + shift I``, or None if a pivot is below ``least``."""
    factor: list[list[float]] = []
    for i, row in enumerate(matrix):
        factor.append([])
        for j in range(i):
            factor[i].append((row[j] - dot(factor[i], factor[j][:j])) / factor[j][j])
        pivot = row[i] + shift - dot(factor[i], factor[i])
        if not pivot >= least:
            return None
        factor[i].append(math.sqrt(pivot))
    return factor


def conjugate_gradients(matrix: Matrix, right: Sequence[float], damping: float, iterations: int) -> list[float]:
    """Solve ``(M + damping I) x = b`` approximately, stopping where the curvature is not positive (Steihaug 1983).

    Args:
        matrix: Symmetric, ``[n, n]``.
        right: b, ``[n]``.
        damping: Added to the diagonal, > 0.
        iterations: At most so many.

    Returns:
        x, ``[n]``; if the very first direction curves the wrong way, b over the size of that curvature.
    """
    x, residual, direction = [0.0] * len(right), list(right), list(right)
    for number in range(min(iterations, len(right))):
        square = dot(residual, residual)
        if square == 0.0:
            break
        image = [m + damping * d for m, d in zip(times(matrix, direction), direction, strict=True)]
        curvature = dot(direction, image)
        if curvature <= damping * dot(direction, direction):
            if number == 0:
                least = damping * dot(direction, direction)
                x = [d * square / max(abs(curvature), least) for d in direction]
            break
        length = square / curvature
        x = [a + length * d for a, d in zip(x, direction, strict=True)]
        residual = [r - length * i for r, i in zip(residual, image, strict=True)]
        growth = dot(residual, residual) / square
        direction = [r + growth * d for r, d in zip(residual, direction, strict=True)]
    return x
