"""Orthonormal columns with the same bits on every machine: a LAPACK factorisation would depend on its blocking."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def orthonormalize(columns: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    """Modified Gram-Schmidt in place, twice, on ``[rank, rows]``, one column of the matrix a row here.

    Sums run from the first element to the last; without ``fastmath`` no compiler may reorder or fuse them.
    """
    rank, rows = columns.shape
    for k in range(rank):
        for _ in range(2):  # the second pass removes what rounding left of the first (Kahan: twice is enough)
            for j in range(k):
                dot = 0.0
                for i in range(rows):
                    dot += columns[j, i] * columns[k, i]
                for i in range(rows):
                    columns[k, i] -= dot * columns[j, i]
        square = 0.0
        for i in range(rows):
            square += columns[k, i] * columns[k, i]
        scale = 1.0 / math.sqrt(square)
        for i in range(rows):
            columns[k, i] *= scale
