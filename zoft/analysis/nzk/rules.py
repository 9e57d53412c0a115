"""The four ways to train that the analysis compares, and what Gaussian theory needs to know of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zoft.errors import ConfigError, did_you_mean

__all__ = ["RULES", "Rule", "rule_named"]


@dataclass(frozen=True)
class Rule:
    """One way to make a step of the squared loss ``L = sum_j r_j^2 / (2 n)``, ``r_j = f(x_j) - y_j``.

    ``theta -= lr u``, and with ``h = grad L``, for Gaussian z,

        E[u] = mean h,    E[u u^T] = square h h^T + trace |h|^2 I,

    for ``per_example`` of each example's own term and gradient, whose noise then adds up.

    Attributes:
        name: Its name in :data:`RULES`.
        update: What u is.
        kind: The kernel by which it moves the outputs of a linear model; see :data:`zoft.analysis.nzk.KINDS`.
        coefficients: From the number of trained weights, d, to ``mean``, ``square`` and ``trace``.
    """

    name: str
    update: str
    kind: str
    coefficients: Callable[[int], tuple[float, float, float]]


RULES = {
    rule.name: rule
    for rule in (
        Rule("mezo", "(z^T h) z, one z for the whole batch", "step", lambda d: (1.0, 2.0, 1.0)),
        Rule("per_example", "mean of r_j (z_j^T g_j) z_j, a z_j for each example", "step", lambda d: (1.0, 2.0, 1.0)),
        Rule("nzk_independent", "(z^T h)(zeta^T z) zeta", "independent", lambda d: (1.0, 4.0, d + 4.0)),
        Rule(
            "nzk_shared",
            "(z^T h)(z^T z) z: mezo at |z|^2 times the step size",
            "shared",
            lambda d: (d + 2.0, 2.0 * (d + 4) * (d + 6), (d + 4.0) * (d + 6)),
        ),
    )
}
"""By name."""


def rule_named(name: str) -> Rule:
    """Return a rule.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in RULES:
        raise ConfigError(f"rule must be one of {', '.join(RULES)}, got {name!r}.{did_you_mean(name, RULES)}")
    return RULES[name]
