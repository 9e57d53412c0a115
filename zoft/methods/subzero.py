"""SubZero: zeroth-order SGD in random subspaces (Yu et al. 2024, arXiv 2410.08989).

MeZO whose direction of each matrix is ``s U Z V^T``: U and V have orthonormal columns and are drawn anew every
``period`` steps, Z is a fresh ``[rank, rank]`` matrix of noise for every query, and ``s = sqrt(rows * columns) / rank``
gives the direction the length of dense noise, so that MeZO's lr carries over. Vectors get dense noise.

Published settings: rank 24 to 128, period 500 to 2000, lr 1e-7, zo_eps 1e-3. State beyond inference:
``rank (rows + columns)`` numbers for each matrix. Forwards a step: 2 q.

Deviations: bases by Gram-Schmidt in one fixed order instead of QR, so that they have the same bits everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from zoft.checks import check_count
from zoft.directions import LowRankDirections, OrthonormalFactors
from zoft.estimators import TwoSided
from zoft.method import Method, dense_directions, with_defaults
from zoft.registry import register_method
from zoft.types import ZOConfig
from zoft.updates import Average


@dataclass(frozen=True)
class SubzeroOptions:
    """Options of SubZero.

    Attributes:
        rank: Dimension of the subspace of a matrix's rows, and of its columns, >= 1; at most the matrix's own.
        period: Steps for which a subspace lasts, >= 1.
    """

    rank: int = 24
    period: int = 1000

    def __post_init__(self) -> None:
        check_count("rank of subzero", self.rank)
        check_count("period of subzero", self.period)


@register_method("subzero", SubzeroOptions)
def build(config: ZOConfig, options: SubzeroOptions) -> Method:
    """Build SubZero."""
    config = with_defaults(config, zo_eps=1e-3, num_queries=1, distribution="gaussian")
    assert config.num_queries is not None and config.zo_eps is not None
    dense = dense_directions(config)
    directions = LowRankDirections(dense, OrthonormalFactors(dense, options.rank, options.period))
    return Method(directions, TwoSided(config.num_queries, config.zo_eps), Average(), config)
