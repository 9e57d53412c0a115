"""Conservative ZO-SGD: stay where neither side is better (in ZO-Bench, Zhang et al. 2024, arXiv 2402.11592).

MeZO with the clean loss: a direction counts only if one of its sides has a lower loss than theta itself.

Published settings: lr 1e-6 and less, zo_eps 1e-3. State beyond inference: none. Forwards a step: 2 q + 1; the clean one
is the training loss that is logged.

Deviations: ZO-Bench evaluates the points that the step would lead to, theta -+ lr g, which takes two more forwards
after the estimate; here the points of the estimate are judged, theta +- zo_eps z.
"""

from __future__ import annotations

from dataclasses import dataclass

from zoft.estimators import TwoSidedWithCurvature
from zoft.method import Method, dense_directions, with_defaults
from zoft.registry import register_method
from zoft.types import ZOConfig
from zoft.updates import Cautious


@dataclass(frozen=True)
class ConservativeOptions:
    """Conservative ZO-SGD has no options beyond the common ones."""


@register_method("conservative", ConservativeOptions)
def build(config: ZOConfig, options: ConservativeOptions) -> Method:
    """Build conservative ZO-SGD."""
    config = with_defaults(config, zo_eps=1e-3, num_queries=1, distribution="gaussian")
    assert config.num_queries is not None and config.zo_eps is not None
    estimator = TwoSidedWithCurvature(config.num_queries, config.zo_eps)
    return Method(dense_directions(config), estimator, Cautious(config.zo_eps), config)
