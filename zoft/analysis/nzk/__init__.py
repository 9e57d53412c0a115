"""The neural zeroth-order kernel (NZK; Zhang et al. 2026, arXiv 2603.21169): measured, in closed form, and trained.

``K(x_i, x_j) = E[(zeta^T g_i)(z^T g_j)(zeta^T z)]`` with ``g_i`` the gradient of the output at ``x_i``, for ``zeta``
and ``z`` drawn apart (``independent``) and for ``zeta = z`` (``shared``). ``docs/nzk.md`` holds the derivations, and
says which of it any training follows.
"""

from zoft.analysis.nzk.evolution import (
    expected_losses,
    expected_residuals,
    loss_floor,
    stability_limit,
    tuned_lr,
)
from zoft.analysis.nzk.kernel import empirical_kernel, tangent_kernel
from zoft.analysis.nzk.linearised import Linearised
from zoft.analysis.nzk.moments import KINDS, MOMENTS, Moments, expected_kernel, kernel_variance
from zoft.analysis.nzk.rules import RULES, Rule, rule_named
from zoft.analysis.nzk.training import train

__all__ = [
    "KINDS",
    "MOMENTS",
    "RULES",
    "Linearised",
    "Moments",
    "Rule",
    "empirical_kernel",
    "expected_kernel",
    "expected_losses",
    "expected_residuals",
    "kernel_variance",
    "loss_floor",
    "rule_named",
    "stability_limit",
    "tangent_kernel",
    "train",
    "tuned_lr",
]
