"""SubZero+: many queries in a shared subspace, and Adam inside it (arXiv 2608.15665).

A matrix's directions are SubZero's, ``z_k = s U Z_k V^T`` with U and V orthonormal and kept for ``period`` steps, and
each costs one forward beside the clean one. What they say of the gradient in the subspace, ``rank x rank``,

    G = mean_k p_k Z_k / s,    theta -= lr U Adam(G) V^T,

is an average over so many queries that Adam has something to work on. Vectors get dense noise and ordinary Adam.

Published settings: 99 queries, betas 0.9 and 0.95, lr 1e-3 to 1e-2, period 50 to 100, some 400 steps. State beyond
inference: ``rank (rows + columns) + 2 rank^2`` numbers for each matrix, two for each element of a vector. Forwards a
step: q + 1; the clean one is the training loss that is logged.

Deviations: Adam's moments start afresh with each subspace, whose coordinates mean something else. Gram-Schmidt gives
bases a positive diagonal, which makes them uniformly distributed without the paper's correction of QR's signs. Our rank
is SubZero's 24.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zoft import noise
from zoft.checks import check_count, check_positive, check_share
from zoft.directions import LowRankDirections, OrthonormalFactors
from zoft.estimators import OneSided
from zoft.method import Method, dense_directions, with_defaults
from zoft.noise import Term
from zoft.registry import register_method
from zoft.types import ZOConfig
from zoft.updates import Average, Factored, adam_step


@dataclass(frozen=True)
class SubzeroPlusOptions:
    """Options of SubZero+.

    Attributes:
        rank: Dimension of the subspace of a matrix's rows, and of its columns, >= 1; at most the matrix's own.
        period: Steps for which a subspace lasts, >= 1.
        beta1: Decay of Adam's mean, in [0, 1).
        beta2: Decay of its mean square, in [0, 1).
        epsilon: Added to its root, > 0.
    """

    rank: int = 24
    period: int = 50
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        check_count("rank of subzero_plus", self.rank)
        check_count("period of subzero_plus", self.period)
        for name in ("beta1", "beta2"):
            check_share(f"{name} of subzero_plus", getattr(self, name))
        check_positive("epsilon of subzero_plus", self.epsilon)

    def elements(self, g: torch.Tensor, states: Sequence[torch.Tensor], count: int) -> torch.Tensor:
        """See :data:`zoft.updates.Elements`."""
        return adam_step(g, states, count, self.beta1, self.beta2, self.epsilon)


class SubspaceAdam:
    """The steps of matrices: ``U Adam(G) V^T``."""

    def __init__(self, subspaces: OrthonormalFactors, options: SubzeroPlusOptions) -> None:
        self._subspaces, self._options = subspaces, options
        self._moments: dict[int, torch.Tensor] = {}
        self._began: dict[int, tuple[int, int]] = {}  # whose moments, of how many steps

    def factors(
        self, gradient: Sequence[Term], parameter: int, shape: torch.Size, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`zoft.updates.FactoredSteps`."""
        rank, scale = min(self._options.rank, *shape), self._subspaces.scale(shape)
        total = torch.zeros(rank, rank)
        for term in gradient:
            total.add_(self._subspaces.inner(term, parameter, shape).mul_(term.coefficient / (scale * scale)))
        began, count = self._began.get(parameter, (-1, 0))
        if began != self._subspaces.began(step):
            self._moments[parameter], count = torch.zeros(2, rank, rank), 0
        self._began[parameter] = self._subspaces.began(step), count + 1
        u = self._options.elements(total, list(self._moments[parameter]), count + 1)
        left, right = self._subspaces.bases(step, parameter, shape)
        return noise.product(left, u), right

    def state_size(self, shape: torch.Size) -> int:
        """Adam's two moments in the subspace."""
        rows, columns = shape
        rank = min(self._options.rank, rows, columns)
        return 2 * rank * rank

    def state_dict(self) -> dict[str, Any]:
        """See :class:`zoft.updates.FactoredSteps`."""
        return {"moments": dict(self._moments), "began": dict(self._began)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`zoft.updates.FactoredSteps`."""
        self._moments = {parameter: moments.clone() for parameter, moments in state["moments"].items()}
        self._began = {parameter: tuple(began) for parameter, began in state["began"].items()}


@register_method("subzero_plus", SubzeroPlusOptions)
def build(config: ZOConfig, options: SubzeroPlusOptions) -> Method:
    """Build SubZero+."""
    config = with_defaults(config, zo_eps=1e-3, num_queries=99, distribution="gaussian")
    assert config.num_queries is not None and config.zo_eps is not None
    dense = dense_directions(config)
    subspaces = OrthonormalFactors(dense, options.rank, options.period)
    rule = Factored(SubspaceAdam(subspaces, options), options.elements, num_states=2, dense=dense)
    estimator = OneSided(config.num_queries, config.zo_eps)
    return Method(LowRankDirections(dense, subspaces), estimator, Average(), config, rule)
