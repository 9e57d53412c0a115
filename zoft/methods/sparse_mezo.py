"""Sparse MeZO: perturb and update small weights only (Liu et al. 2024, arXiv 2402.15751).

MeZO whose direction is zero in the elements whose weight exceeds, in magnitude, a threshold of its tensor: the share
``sparsity`` of largest weights, at the start, is left alone. The mask follows the weights; the thresholds stay.

Published settings: sparsity 0.5 to 0.8, otherwise MeZO's with a larger lr. State beyond inference: one number a tensor.
Forwards a step: 2 q.

Deviations: vectors are masked like matrices; a tensor that starts with at least as many zeros as are to move is not
masked. Weight decay, if any, is on all elements.
"""

from __future__ import annotations

from dataclasses import dataclass

from zoft.checks import check_share
from zoft.directions import MaskedDirections
from zoft.errors import ConfigError
from zoft.estimators import TwoSided
from zoft.method import Method, dense_directions, with_defaults
from zoft.registry import register_method
from zoft.types import ZOConfig
from zoft.updates import Average


@dataclass(frozen=True)
class SparseMezoOptions:
    """Options of Sparse MeZO.

    Attributes:
        sparsity: Share of each tensor's elements that is left alone, in [0, 1).
    """

    sparsity: float = 0.75

    def __post_init__(self) -> None:
        check_share("sparsity of sparse_mezo", self.sparsity)


@register_method("sparse_mezo", SparseMezoOptions)
def build(config: ZOConfig, options: SparseMezoOptions) -> Method:
    """Build Sparse MeZO.

    Raises:
        ConfigError: With placement ``inplace``, under which the mask would see perturbed weights.
    """
    if config.placement == "inplace":
        raise ConfigError("sparse_mezo's mask follows the weights, which placement='inplace' moves; use another one.")
    config = with_defaults(config, zo_eps=1e-3, num_queries=1, distribution="gaussian")
    assert config.num_queries is not None and config.zo_eps is not None
    directions = MaskedDirections(dense_directions(config), 1.0 - options.sparsity)
    return Method(directions, TwoSided(config.num_queries, config.zo_eps), Average(), config)
