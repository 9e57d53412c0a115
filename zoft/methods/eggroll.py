"""EGGROLL: an evolution strategy with low-rank members (arXiv 2511.16652).

ES whose direction of each matrix is ``U V^T / sqrt(rank)``, both factors fresh for each pair of members: the sum over a
population is of full rank, while a member is ``rank (rows + columns)`` numbers. Vectors get dense noise.

Published settings: rank 1, sigma and lr by the task; the population as large as memory allows. State beyond inference:
none. Forwards a step: 2 q, the population.

Deviations: antithetic pairs. Members are evaluated one after the other, or with ``placement="batched"`` in one forward.
"""

from __future__ import annotations

from dataclasses import dataclass

from zoft.checks import check_count
from zoft.directions import LowRankDirections, NoiseFactors
from zoft.estimators import AntitheticPopulation
from zoft.method import Method, dense_directions, with_defaults
from zoft.registry import register_method
from zoft.types import ZOConfig
from zoft.updates import FitnessShaped, shaping


@dataclass(frozen=True)
class EggrollOptions:
    """Options of EGGROLL.

    Attributes:
        rank: Rank of a member's noise in each matrix, >= 1.
        shaping: How losses become fitness: ``"zscore"`` or ``"ranks"``.
    """

    rank: int = 1
    shaping: str = "zscore"

    def __post_init__(self) -> None:
        check_count("rank of eggroll", self.rank)
        shaping(self.shaping)


@register_method("eggroll", EggrollOptions)
def build(config: ZOConfig, options: EggrollOptions) -> Method:
    """Build EGGROLL."""
    config = with_defaults(config, zo_eps=1e-3, num_queries=15, distribution="gaussian")
    assert config.num_queries is not None and config.zo_eps is not None
    dense = dense_directions(config)
    directions = LowRankDirections(dense, NoiseFactors(dense, options.rank, period=None))
    estimator = AntitheticPopulation(config.num_queries, config.zo_eps)
    return Method(directions, estimator, FitnessShaped(shaping(options.shaping)), config)
