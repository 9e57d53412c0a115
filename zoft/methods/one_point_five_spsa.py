"""1.5-SPSA: projected gradients weighted by the curvature along their directions (2026; cf. n-SPSA, arXiv 2305.17333).

n two-sided pairs along Rademacher directions and one clean loss give slopes p_i and, for free, curvatures
``c_i = (L+ - 2 L0 + L-) / zo_eps^2``; ``theta -= lr (1/n) sum_i p_i u_i / max(1, |c_i|^0.1)``: directions in which
the loss curves count for less.

Published settings: zo_eps and lr 1e-4. State beyond inference: none. Forwards a step: 2 q + 1; the clean one is the
training loss that is logged.

Deviations: zo_eps 1e-3, since at 1e-4 a second difference of float32 losses is nothing but their rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

from zoft.checks import check_not_negative
from zoft.estimators import TwoSidedWithCurvature
from zoft.method import Method, dense_directions, with_defaults
from zoft.registry import register_method
from zoft.types import ZOConfig
from zoft.updates import CurvatureWeighted


@dataclass(frozen=True)
class OnePointFiveSpsaOptions:
    """Options of 1.5-SPSA.

    Attributes:
        power: Exponent of the curvature in the weight, >= 0; 0 is n-SPSA.
    """

    power: float = 0.1

    def __post_init__(self) -> None:
        check_not_negative("power of one_point_five_spsa", self.power)


@register_method("one_point_five_spsa", OnePointFiveSpsaOptions)
def build(config: ZOConfig, options: OnePointFiveSpsaOptions) -> Method:
    """Build 1.5-SPSA."""
    config = with_defaults(config, zo_eps=1e-3, num_queries=1, distribution="rademacher")
    assert config.num_queries is not None and config.zo_eps is not None
    estimator = TwoSidedWithCurvature(config.num_queries, config.zo_eps)
    return Method(dense_directions(config), estimator, CurvatureWeighted(options.power), config)
