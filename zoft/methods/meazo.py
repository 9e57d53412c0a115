"""MeAZO: MeZO with one adaptive step size for all weights (arXiv 2605.03869).

``v = beta v + (1 - beta) mean_k p_k^2``, ``theta -= lr mean_k p_k u_k / (sqrt(v_hat) + epsilon)``, with Rademacher u,
MeZO's projected gradients p and v_hat free of the zero that v starts from. The step's length does not depend on the
scale of the loss, and a single large p cannot throw the weights far.

Published settings: none that carry over; lr is a displacement per element and step, as FZOO's is.
State beyond inference: two scalars. Forwards a step: 2 q.

Deviations: one v for all parameter groups; with several queries it takes in the mean of their squares.
"""

from __future__ import annotations

from dataclasses import dataclass

from zoft.checks import check_positive, check_share
from zoft.estimators import TwoSided
from zoft.method import Method, dense_directions, with_defaults
from zoft.registry import register_method
from zoft.types import ZOConfig
from zoft.updates import ScalarAdaptive


@dataclass(frozen=True)
class MeazoOptions:
    """Options of MeAZO.

    Attributes:
        beta: Decay of the running mean square, in [0, 1).
        epsilon: Added to its root, > 0.
    """

    beta: float = 0.99
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        check_share("beta of meazo", self.beta)
        check_positive("epsilon of meazo", self.epsilon)


@register_method("meazo", MeazoOptions)
def build(config: ZOConfig, options: MeazoOptions) -> Method:
    """Build MeAZO."""
    config = with_defaults(config, zo_eps=1e-3, num_queries=1, distribution="rademacher")
    assert config.num_queries is not None and config.zo_eps is not None
    update = ScalarAdaptive(options.beta, options.epsilon)
    return Method(dense_directions(config), TwoSided(config.num_queries, config.zo_eps), update, config)
