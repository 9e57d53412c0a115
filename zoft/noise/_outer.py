"""Products of thin matrices with the same bits on every machine: a BLAS would sum in an order of its own."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

_TILE = 1024  # elements of a row that stay in the L1 cache while all products are added to them


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def multiply(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any], out: np.ndarray[Any, Any]) -> None:
    """Write ``left [n, k] @ right [k, m]`` to ``out``, summed over k from the first to the last, each step rounded."""
    rows, inner = left.shape
    columns = right.shape[1]
    for low in range(0, columns, _TILE):
        high = min(low + _TILE, columns)
        for i in range(rows):
            total, first, scale = out[i, low:high], right[0, low:high], left[i, 0]
            for j in range(high - low):
                total[j] = scale * first[j]
            k = 1
            # Four at a time, so that a sum is loaded and stored a quarter as often; the order is the same.
            while k + 4 <= inner:
                a, b, c, d = left[i, k], left[i, k + 1], left[i, k + 2], left[i, k + 3]
                p, q = right[k, low:high], right[k + 1, low:high]
                r, s = right[k + 2, low:high], right[k + 3, low:high]
                for j in range(high - low):
                    total[j] = (((total[j] + a * p[j]) + b * q[j]) + c * r[j]) + d * s[j]
                k += 4
            while k < inner:
                scale, row = left[i, k], right[k, low:high]
                for j in range(high - low):
                    total[j] += scale * row[j]
                k += 1
