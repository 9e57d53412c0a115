"""Expected kernels and their variance in closed form, from the moments of z (arXiv 2603.21169; ``docs/nzk.md``).

Notation: ``g_i`` is the gradient of the i-th output, ``gram[i, j] = g_i^T g_j`` (the tangent kernel), d the number of
trained weights, and the elements of z are independent and alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from zoft.errors import ConfigError, did_you_mean

__all__ = ["KINDS", "MOMENTS", "Array", "Moments", "check_kind", "expected_kernel", "kernel_variance"]

Array: TypeAlias = NDArray[np.float64]

KINDS = ("independent", "shared", "step")
"""``independent``: ``(zeta^T g_i)(z^T g_j)(zeta^T z)``; ``shared``: the same with ``zeta = z``; ``step``:
``(z^T g_i)(z^T g_j)``, by which a MeZO step moves the outputs."""


@dataclass(frozen=True)
class Moments:
    """The first four moments of one element of z, about zero: ``m_k = E[z_a^k]``.

    Raises:
        ConfigError: If no random number has such moments.
    """

    m1: float
    m2: float
    m3: float
    m4: float

    def __post_init__(self) -> None:
        # E[(a + b z + c z^2)^2] >= 0 for any a, b, c (Hamburger's condition).
        hankel = np.array([[1.0, self.m1, self.m2], [self.m1, self.m2, self.m3], [self.m2, self.m3, self.m4]])
        if not (np.isfinite(hankel).all() and np.linalg.eigvalsh(hankel)[0] >= -1e-12 * np.abs(hankel).max()):
            raise ConfigError(
                f"no random number has the moments {self}: (1, m1, m2), (m1, m2, m3), (m2, m3, m4) must be the rows of "
                "a positive semi-definite matrix. So m2 is at least m1^2, and m4 at least m2^2."
            )


MOMENTS = {"gaussian": Moments(0.0, 1.0, 0.0, 3.0), "rademacher": Moments(0.0, 1.0, 0.0, 1.0)}
"""Those of zoft's distributions, by name."""


def check_kind(kind: str) -> None:
    """Raise ConfigError unless ``kind`` is one of :data:`KINDS`."""
    if kind not in KINDS:
        raise ConfigError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}.{did_you_mean(kind, KINDS)}")


def expected_kernel(kind: str, gram: Array, dimension: int, moments: Moments, sums: Array | None = None) -> Array:
    """Return the expectation of a kernel.

    With ``v = m2 - m1^2``, ``E[z z^T] = v I + m1^2 1 1^T``, so every expectation is ``a gram + b sums sums^T``:

    ===========  =======================================  ==========================
    kind         a                                        b
    ===========  =======================================  ==========================
    step         v                                        m1^2
    independent  v^2                                      2 v m1^2 + d m1^4
    shared       m4 + (d - 1) m2^2 - b                    2 m1 m3 + (d - 2) m1^2 m2
    ===========  =======================================  ==========================

    For ``shared`` that is ``(d + 2) gram`` if z is Gaussian, and ``d gram`` if it is Rademacher, whose squared length
    is d exactly.

    Args:
        kind: One of :data:`KINDS`.
        gram: ``[n, n]``, the tangent kernel.
        dimension: Number of trained weights, d.
        moments: Of one element of z.
        sums: ``[n]``, the sum of each gradient's elements; needed only where ``m1`` is not zero.

    Returns:
        ``[n, n]``.

    Raises:
        ConfigError: If the kind is unknown, or ``sums`` is needed and missing.
    """
    check_kind(kind)
    m1, m2, m3, m4 = moments.m1, moments.m2, moments.m3, moments.m4
    variance = m2 - m1**2
    if kind == "step":
        a, b = variance, m1**2
    elif kind == "independent":
        a, b = variance**2, 2.0 * variance * m1**2 + dimension * m1**4
    else:
        b = 2.0 * m1 * m3 + (dimension - 2) * m1**2 * m2
        a = m4 + (dimension - 1) * m2**2 - b
    if b == 0.0:
        return a * gram
    if sums is None:
        raise ConfigError(f"z has the mean {m1}, so the kernel needs sums, the sum of each gradient's elements.")
    return a * gram + b * np.outer(sums, sums)


def kernel_variance(kind: str, gram: Array, dimension: int) -> Array:
    """Return the variance, for Gaussian z, of one draw of each element of a kernel.

    With ``p = K_ii K_jj`` and ``k = K_ij`` of the tangent kernel: ``step`` p + k^2; ``independent``
    (d + 4) p + 3 k^2; ``shared`` (d + 4)(d + 6)(p + 2 k^2) - (d + 2)^2 k^2.

    Args:
        kind: One of :data:`KINDS`.
        gram: ``[n, n]``, the tangent kernel.
        dimension: Number of trained weights, d.

    Returns:
        ``[n, n]``.

    Raises:
        ConfigError: If the kind is unknown.
    """
    check_kind(kind)
    d, p, k2 = dimension, np.outer(gram.diagonal(), gram.diagonal()), gram**2
    if kind == "step":
        return p + k2
    if kind == "independent":
        return (d + 4) * p + 3.0 * k2
    return (d + 4) * (d + 6) * (p + 2.0 * k2) - (d + 2) ** 2 * k2
