"""LOZO-M: LOZO with momentum (Chen et al. 2024, arXiv 2410.07698, Algorithm 2).

LOZO's estimate of a matrix's gradient is ``G V^T`` with ``G = mean_k p_k U_k / sqrt(rank)``, and V lasts for ``period``
steps. So its momentum is as thin as U:

    N = beta N + (1 - beta) G,    theta -= lr N V^T,    N = N V_old^T V_new / columns when V changes,

from ``N = 0``, so that the first steps are short.

Vectors, whose directions are dense noise, get ordinary momentum of the same kind.

Published settings: LOZO's (rank 2, period 50 to 100, lr 1e-7 up to 1e-6, zo_eps 1e-3) and beta 0.9. State beyond
inference: ``rank rows`` numbers for each matrix, one for each element of a vector. Forwards a step: 2 q.

Deviations: LOZO's scale of directions, which carries MeZO's zo_eps and lr over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zoft.checks import check_count, check_share
from zoft.directions import LowRankDirections, NoiseFactors
from zoft.estimators import TwoSided
from zoft.method import Method, dense_directions, with_defaults
from zoft.noise import Term
from zoft.registry import register_method
from zoft.types import ZOConfig
from zoft.updates import Average, Factored


@dataclass(frozen=True)
class LozoMOptions:
    """Options of LOZO-M.

    Attributes:
        rank: Rank of a matrix's direction, >= 1.
        period: Steps that share V, >= 1.
        beta: Share of the momentum that a step keeps, in [0, 1).
    """

    rank: int = 2
    period: int = 50
    beta: float = 0.9

    def __post_init__(self) -> None:
        check_count("rank of lozo_m", self.rank)
        check_count("period of lozo_m", self.period)
        check_share("beta of lozo_m", self.beta)

    def elements(self, g: torch.Tensor, states: Sequence[torch.Tensor], count: int) -> torch.Tensor:
        """The momentum of what is not a matrix; see :data:`zoft.updates.Elements`."""
        return states[0].mul_(self.beta).add_(g * (1.0 - self.beta)).clone()


class Momenta:
    """N of each matrix. Its step is ``N V^T``."""

    def __init__(self, noise: NoiseFactors, beta: float) -> None:
        self._noise, self._beta = noise, beta
        self._of: dict[int, torch.Tensor] = {}
        self._changed: dict[int, int] = {}  # at which step, last

    def factors(
        self, gradient: Sequence[Term], parameter: int, shape: torch.Size, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`zoft.updates.FactoredSteps`."""
        momentum = self._of.setdefault(parameter, torch.zeros(shape[0], self._noise.rank))
        steps = self._changed.get(parameter, step), step
        old, new = (self._noise.right(Term(s, 0, 1.0), parameter, shape) for s in steps)
        if not torch.equal(old, new):
            momentum.copy_(_turned(momentum, old, new))
        momentum.mul_(self._beta)
        for term in gradient:
            left = self._noise.left(term, parameter, 0, shape[0], shape)
            momentum.add_(left.mul_(term.coefficient * (1.0 - self._beta)))
        self._changed[parameter] = step
        return momentum, new

    def state_size(self, shape: torch.Size) -> int:
        """See :class:`zoft.updates.FactoredSteps`."""
        return shape[0] * self._noise.rank

    def state_dict(self) -> dict[str, Any]:
        """See :class:`zoft.updates.FactoredSteps`."""
        return {"momenta": dict(self._of), "changed": dict(self._changed)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`zoft.updates.FactoredSteps`."""
        self._of = {parameter: momentum.clone() for parameter, momentum in state["momenta"].items()}
        self._changed = dict(state["changed"])


def _turned(momentum: torch.Tensor, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Return ``N V_old^T V_new / columns``, with sums in which only the end result is rounded."""
    turned = torch.zeros_like(momentum)
    for i in range(old.shape[1]):
        for j in range(new.shape[1]):
            # Products of two float32 numbers are exact in float64, and fsum rounds once.
            overlap = math.fsum((old[:, i].double() * new[:, j].double()).tolist()) / len(old)
            turned[:, j].add_(momentum[:, i] * torch.tensor(overlap, dtype=torch.float32))
    return turned


@register_method("lozo_m", LozoMOptions)
def build(config: ZOConfig, options: LozoMOptions) -> Method:
    """Build LOZO-M."""
    config = with_defaults(config, zo_eps=1e-3, num_queries=1, distribution="gaussian")
    assert config.num_queries is not None and config.zo_eps is not None
    dense = dense_directions(config)
    noise = NoiseFactors(dense, options.rank, options.period)
    rule = Factored(Momenta(noise, options.beta), options.elements, num_states=1, dense=dense)
    estimator = TwoSided(config.num_queries, config.zo_eps)
    return Method(LowRankDirections(dense, noise), estimator, Average(), config, rule)
