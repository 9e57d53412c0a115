"""FZOO: fast zeroth-order optimizer (arXiv 2506.09034, ICLR 2026).

One-sided differences ``d_i = L(theta + zo_eps u_i) - L(theta)`` along N Rademacher directions, and a step
normalised by their spread: ``theta -= lr (1/N) sum_i d_i u_i / std(d)``. The step's length depends on lr,
not on the scale of the loss, the gradient or ``zo_eps`` (lr absorbs ``zo_eps``, as in the paper's code).

Published settings: N 8, lr 5e-5, zo_eps 1e-4. State beyond inference: none. Forwards a step: N + 1; the
clean one is the training loss that is logged.

Deviations: zo_eps is 1e-3, like the others'. At the published 1e-4 the losses of a bfloat16 model differ by less than
their rounding, and slopes are noise (docs/methods.md); a step is as long with either. With ``beta`` above 0 the spread
is smoothed over steps, so that a step whose losses happen to lie close together is not made a long one.
"""

from __future__ import annotations

from dataclasses import dataclass

from zoft.checks import check_share
from zoft.errors import ConfigError
from zoft.estimators import OneSided
from zoft.method import Method, dense_directions, with_defaults
from zoft.registry import register_method
from zoft.types import ZOConfig
from zoft.updates import SpreadNormalized


@dataclass(frozen=True)
class FzooOptions:
    """Options of FZOO.

    Attributes:
        beta: Decay of a running mean of the spread's square, in [0, 1); 0, as published, is each step's own.
    """

    beta: float = 0.0

    def __post_init__(self) -> None:
        check_share("beta of fzoo", self.beta)


@register_method("fzoo", FzooOptions)
def build(config: ZOConfig, options: FzooOptions) -> Method:
    """Build FZOO.

    Raises:
        ConfigError: If there are fewer than two queries, whose spread cannot be measured.
    """
    config = with_defaults(config, zo_eps=1e-3, num_queries=8, distribution="rademacher")
    assert config.num_queries is not None and config.zo_eps is not None
    if config.num_queries < 2:
        raise ConfigError(f"fzoo needs num_queries >= 2 to measure the spread of the losses, got {config.num_queries}.")
    update = SpreadNormalized(options.beta)
    return Method(dense_directions(config), OneSided(config.num_queries, config.zo_eps), update, config)
