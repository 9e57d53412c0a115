"""ES: an evolution strategy on the weights (Qiu et al. 2025, arXiv 2509.24372; Salimans et al. 2017).

A population in antithetic pairs ``theta +- zo_eps z_k`` is scored, the scores are standardised over the population, and
``theta -= lr mean over members of score * (+-z)``; zo_eps (sigma) is absorbed into lr. Scores only compare members, so
the step does not depend on the loss's scale or offset, and the loss need not be differentiable.

Published settings: population 30 (here num_queries 15), sigma 1e-3, lr 5e-4. State beyond inference: none.
Forwards a step: 2 q, the population.

Deviations: antithetic pairs halve the number of directions and take the even part of the loss out; ``shaping="ranks"``
scores by centred ranks instead (Salimans et al.), which outliers cannot move.
"""

from __future__ import annotations

from dataclasses import dataclass

from zoft.estimators import AntitheticPopulation
from zoft.method import Method, dense_directions, with_defaults
from zoft.registry import register_method
from zoft.types import ZOConfig
from zoft.updates import FitnessShaped, shaping


@dataclass(frozen=True)
class EsOptions:
    """Options of ES.

    Attributes:
        shaping: How losses become fitness: ``"zscore"`` or ``"ranks"``.
    """

    shaping: str = "zscore"

    def __post_init__(self) -> None:
        shaping(self.shaping)


@register_method("es", EsOptions)
def build(config: ZOConfig, options: EsOptions) -> Method:
    """Build ES."""
    config = with_defaults(config, zo_eps=1e-3, num_queries=15, distribution="gaussian")
    assert config.num_queries is not None and config.zo_eps is not None
    estimator = AntitheticPopulation(config.num_queries, config.zo_eps)
    return Method(dense_directions(config), estimator, FitnessShaped(shaping(options.shaping)), config)
