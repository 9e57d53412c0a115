"""ZO-SGD with momentum (Zhang et al. 2024, ZO-Bench, arXiv 2402.11592).

``m = beta m + g``, ``theta -= lr m``, with MeZO's estimate g.

Published settings: beta 0.9, lr 1e-6 and less, zo_eps 1e-3. State beyond inference: one float32 number for each trained
element. Forwards a step: 2 q.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from zoft.checks import check_share
from zoft.method import Method, mezo_with, with_defaults
from zoft.noise import run_key
from zoft.registry import register_method
from zoft.types import ZOConfig
from zoft.updates import Elementwise


@dataclass(frozen=True)
class MomentumOptions:
    """Options of ZO-SGD with momentum.

    Attributes:
        beta: Share of the momentum that a step keeps, in [0, 1).
    """

    beta: float = 0.9

    def __post_init__(self) -> None:
        check_share("beta of momentum", self.beta)

    def elements(self, g: torch.Tensor, states: Sequence[torch.Tensor], count: int) -> torch.Tensor:
        """See :data:`zoft.updates.Elements`."""
        return states[0].mul_(self.beta).add_(g).clone()


@register_method("momentum", MomentumOptions)
def build(config: ZOConfig, options: MomentumOptions) -> Method:
    """Build Momentum."""
    config = with_defaults(config, zo_eps=1e-3, num_queries=1, distribution="gaussian", per_example=True)
    rule = Elementwise(options.elements, num_states=1, key=run_key(config.seed))
    return mezo_with(config, rule)
