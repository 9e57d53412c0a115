"""Forward gradient (Baydin et al. 2022; in ZO-Bench, arXiv 2402.11592).

MeZO's estimate with the exact slope: ``p_k = grad . z_k`` comes from one forward-mode pass that carries z_k along, a
Jacobian-vector product, instead of from a difference of two losses. So nothing is lost to ``zo_eps``, nor to the
rounding of 16-bit losses, in which a finite difference may drown.

Published settings: lr 1e-6 and less, one query. State beyond inference: none between steps; while it runs, a copy of
the trained weights (z) and tangents beside the activations. Forwards a step: 2 q, q passes that do the work of two.

Deviations: z is rounded to the dtype of the weights before the product is taken. ``zo_eps`` has no effect.
"""

from __future__ import annotations

from dataclasses import dataclass

from zoft.estimators import Slopes
from zoft.method import Method, dense_directions, with_defaults
from zoft.registry import register_method
from zoft.types import ZOConfig
from zoft.updates import Average


@dataclass(frozen=True)
class ForwardGradOptions:
    """Forward gradient has no options beyond the common ones."""


@register_method("forward_grad", ForwardGradOptions)
def build(config: ZOConfig, options: ForwardGradOptions) -> Method:
    """Build forward gradient."""
    config = with_defaults(config, zo_eps=1e-3, num_queries=1, distribution="gaussian")
    assert config.num_queries is not None
    return Method(dense_directions(config), Slopes(config.num_queries), Average(), config, evaluation="differentiated")
