"""ZO-Adam (Chen et al. 2019; in ZO-Bench, Zhang et al. 2024, arXiv 2402.11592).

Adam (Kingma and Ba 2015) on MeZO's estimate g: ``m = beta1 m + (1 - beta1) g``, ``v = beta2 v + (1 - beta2) g^2``,
``theta -= lr m_hat / (sqrt(v_hat) + epsilon)``, both free of the zeros that they start from.

Published settings: betas 0.9 and 0.999, lr 1e-6 and less, zo_eps 1e-3. State beyond inference: two float32 numbers for
each trained element. Forwards a step: 2 q.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from zoft.checks import check_positive, check_share
from zoft.method import Method, mezo_with, with_defaults
from zoft.noise import run_key
from zoft.registry import register_method
from zoft.types import ZOConfig
from zoft.updates import Elementwise, adam_step


@dataclass(frozen=True)
class AdamOptions:
    """Options of ZO-Adam.

    Attributes:
        beta1: Decay of the mean, in [0, 1).
        beta2: Decay of the mean square, in [0, 1).
        epsilon: Added to its root, > 0.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2"):
            check_share(f"{name} of adam", getattr(self, name))
        check_positive("epsilon of adam", self.epsilon)

    def elements(self, g: torch.Tensor, states: Sequence[torch.Tensor], count: int) -> torch.Tensor:
        """See :data:`zoft.updates.Elements`."""
        return adam_step(g, states, count, self.beta1, self.beta2, self.epsilon)


@register_method("adam", AdamOptions)
def build(config: ZOConfig, options: AdamOptions) -> Method:
    """Build Adam."""
    config = with_defaults(config, zo_eps=1e-3, num_queries=1, distribution="gaussian", per_example=True)
    rule = Elementwise(options.elements, num_states=2, key=run_key(config.seed))
    return mezo_with(config, rule)
