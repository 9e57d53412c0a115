"""LOZO: low-rank zeroth-order SGD (Chen et al. 2024, arXiv 2410.07698).

MeZO whose direction of each matrix is ``U V^T / sqrt(rank)``: U fresh for every query, V kept for ``period`` steps,
over which they descend in one random subspace of each matrix. Vectors get dense noise.

Published settings: rank 2 (1 to 4), period 50 to 100, lr 1e-7 (up to 1e-6), zo_eps 1e-3. State beyond inference: none,
V is made again whenever it is needed. Forwards a step: 2 q.

Deviations: directions are scaled so that each element has variance 1 and MeZO's zo_eps and lr carry over; the paper's
``U V^T`` with scale eps and steps along ``p U V^T / rank`` is this one with ``zo_eps = eps sqrt(rank)``, at the same
lr; where steps are along ``p U V^T``, this one's lr is theirs times the rank.
"""

from __future__ import annotations

from dataclasses import dataclass

from zoft.checks import check_count
from zoft.directions import LowRankDirections, NoiseFactors
from zoft.estimators import TwoSided
from zoft.method import Method, dense_directions, with_defaults
from zoft.registry import register_method
from zoft.types import ZOConfig
from zoft.updates import Average


@dataclass(frozen=True)
class LozoOptions:
    """Options of LOZO.

    Attributes:
        rank: Rank of a matrix's direction, >= 1.
        period: Steps that share V, >= 1.
    """

    rank: int = 2
    period: int = 50

    def __post_init__(self) -> None:
        check_count("rank of lozo", self.rank)
        check_count("period of lozo", self.period)


@register_method("lozo", LozoOptions)
def build(config: ZOConfig, options: LozoOptions) -> Method:
    """Build LOZO."""
    config = with_defaults(config, zo_eps=1e-3, num_queries=1, distribution="gaussian")
    assert config.num_queries is not None and config.zo_eps is not None
    dense = dense_directions(config)
    directions = LowRankDirections(dense, NoiseFactors(dense, options.rank, options.period))
    return Method(directions, TwoSided(config.num_queries, config.zo_eps), Average(), config)
