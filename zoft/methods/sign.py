"""ZO-signSGD (Liu et al. 2019; in ZO-Bench, arXiv 2402.11592).

``theta -= lr sign(g)``, elementwise, with MeZO's estimate g: every trained element moves by lr. With one query it is
``sign(p) sign(z)``.

Published settings: lr 1e-6 and less, zo_eps 1e-3. State beyond inference: none. Forwards a step: 2 q.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from zoft.method import Method, mezo_with, with_defaults
from zoft.noise import run_key
from zoft.registry import register_method
from zoft.types import ZOConfig
from zoft.updates import Elementwise


@dataclass(frozen=True)
class SignOptions:
    """ZO-signSGD has no options beyond the common ones."""


def signs(g: torch.Tensor, states: Sequence[torch.Tensor], count: int) -> torch.Tensor:
    """See :data:`zoft.updates.Elements`."""
    return g.sign()


@register_method("sign", SignOptions)
def build(config: ZOConfig, options: SignOptions) -> Method:
    """Build Sign."""
    config = with_defaults(config, zo_eps=1e-3, num_queries=1, distribution="gaussian", per_example=True)
    rule = Elementwise(signs, num_states=0, key=run_key(config.seed))
    return mezo_with(config, rule)
