"""HiZOO: directions scaled by a running diagonal Hessian (Zhao et al. 2024, arXiv 2402.15173).

``z = u / sqrt(Sigma)``, u Gaussian, Sigma 1 at the start. The clean loss gives the curvature ``c_k`` along each z, and

    theta -= lr mean_k p_k z_k,    Sigma = (1 - alpha) Sigma + alpha mean_k |c_k| / 2 * Sigma u_k^2

elementwise: small steps where the loss curves.

Published settings: alpha 1e-8 (1e-6 to 1e-10), lr 1e-6 and less, zo_eps 1e-3. State beyond inference: one float32
number for each trained element. Forwards a step: 2 q + 1; the clean one is the training loss that is logged.

Deviations: Sigma is kept in float32 whatever the weights are, and changes after the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zoft.directions import DenseDirections, Directions, ElementStates, KeptDirections
from zoft.errors import ConfigError
from zoft.estimators import TwoSidedWithCurvature
from zoft.method import Method, dense_directions, with_defaults
from zoft.noise import Span, Term
from zoft.registry import register_method
from zoft.types import StepRecord, ZOConfig
from zoft.updates import FirstAverage, Group, Sgd


@dataclass(frozen=True)
class HizooOptions:
    """Options of HiZOO.

    Attributes:
        alpha: Share of Sigma that a step replaces, in (0, 1).
    """

    alpha: float = 1e-8

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise ConfigError(f"alpha of hizoo must be in (0, 1), got {self.alpha!r}.")


def scaled(total: torch.Tensor, sigma: torch.Tensor, terms: Sequence[Term]) -> torch.Tensor:
    """``u / sqrt(Sigma)``; see :data:`zoft.directions.kept.Shape`."""
    # torch's float32 root may be off by one bit; through float64 it is correctly rounded.
    return total.div_(sigma.double().sqrt().to(total.dtype))


class HizooRule:
    """Plain descent along the scaled directions, then Sigma's own step."""

    steps_along_gradient = True

    def __init__(self, dense: DenseDirections, states: ElementStates, alpha: float) -> None:
        self._dense, self._states, self._alpha = dense, states, alpha
        self._sgd = Sgd()

    def state_size(self, shape: torch.Size) -> int:
        """One number for each element."""
        return shape.numel()

    def descend(
        self, directions: Directions, groups: Sequence[Group], gradient: Sequence[Term], record: StepRecord
    ) -> None:
        """See :class:`zoft.updates.Rule`."""
        self._sgd.descend(directions, groups, gradient, record)
        count = len(record.scalars) // 2
        for trainable in (t for group in groups for t in group.trainables):
            sigma = self._states.of(trainable)[0].view(-1)
            growth = torch.zeros_like(sigma)
            for k, curvature in enumerate(record.scalars[count:]):
                u = torch.zeros_like(sigma)
                self._dense.combine([Span(u, u, trainable.number)], [Term(record.step, k, 1.0)])
                growth.add_(u.mul_(u).mul_(abs(curvature) / (2.0 * count)))
            sigma.copy_(sigma * (1.0 - self._alpha) + sigma * growth * self._alpha)

    def state_dict(self) -> dict[str, Any]:
        """See :class:`zoft.updates.Rule`."""
        return {"states": self._states.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`zoft.updates.Rule`."""
        self._states.load_state_dict(state["states"])


@register_method("hizoo", HizooOptions)
def build(config: ZOConfig, options: HizooOptions) -> Method:
    """Build HiZOO."""
    config = with_defaults(config, zo_eps=1e-3, num_queries=1, distribution="gaussian")
    assert config.num_queries is not None and config.zo_eps is not None
    dense, states = dense_directions(config), ElementStates(1, 1.0)
    return Method(
        KeptDirections(dense, states, scaled),
        TwoSidedWithCurvature(config.num_queries, config.zo_eps),
        FirstAverage(),
        config,
        HizooRule(dense, states, options.alpha),
    )
