"""ConMeZO: directions from a cone around the momentum (arXiv 2511.02757).

``z = sqrt(d) (cos phi m / |m| + sin phi u / |u|)``, with u Gaussian over all d trained elements and m the running mean
of the estimates, ``m = beta m + (1 - beta) g``; ``theta -= lr mean_k p_k z_k``. Until there is a momentum, z is u.

Published settings: MeZO's lr and zo_eps; angle and beta are tuned. Defaults of ours: phi 1.35, beta 0.99.
State beyond inference: one float32 number for each trained element. Forwards a step: 2 q.

Deviations: |u| is taken as sqrt(d), from which it differs by about 1 / sqrt(2 d) of itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from zoft.checks import check_share
from zoft.directions import Directions, ElementStates, KeptDirections
from zoft.errors import ConfigError
from zoft.estimators import TwoSided
from zoft.method import Method, dense_directions, with_defaults
from zoft.noise import Term, run_key
from zoft.registry import register_method
from zoft.types import StepRecord, ZOConfig
from zoft.updates import Average, Block, Group, descend_blocks


@dataclass(frozen=True)
class ConmezoOptions:
    """Options of ConMeZO.

    Attributes:
        angle: Half the cone's opening, phi, in radians, in (0, pi / 2]; pi / 2 is MeZO.
        beta: Decay of the momentum, in [0, 1).
    """

    angle: float = 1.35
    beta: float = 0.99

    def __post_init__(self) -> None:
        if not 0.0 < self.angle <= math.pi / 2:
            raise ConfigError(f"angle of conmezo must be in (0, pi / 2], got {self.angle!r}.")
        check_share("beta of conmezo", self.beta)


class Cone:
    """The rule, and the shape of the directions, which need its momentum."""

    steps_along_gradient = False  # z holds the momentum

    def __init__(self, options: ConmezoOptions, states: ElementStates, key: int) -> None:
        self._options, self._states, self._key = options, states, key
        self._pull = 0.0  # sqrt(d) cos phi / |m|; 0 while there is no momentum

    def shape(self, total: torch.Tensor, momentum: torch.Tensor, terms: Sequence[Term]) -> torch.Tensor:
        """See :data:`zoft.directions.kept.Shape`."""
        if self._pull == 0.0:
            return total
        pull = self._pull * math.fsum(term.coefficient for term in terms)
        spread = torch.tensor(math.sin(self._options.angle), dtype=total.dtype)
        return total.mul_(spread).add_(momentum * torch.tensor(pull, dtype=total.dtype))

    def state_size(self, shape: torch.Size) -> int:
        """One number for each element."""
        return shape.numel()

    def descend(
        self, directions: Directions, groups: Sequence[Group], gradient: Sequence[Term], record: StepRecord
    ) -> None:
        """See :class:`zoft.updates.Rule`."""
        square, count = 0.0, 0

        def rule(block: Block) -> torch.Tensor:
            nonlocal square, count
            g = block.total(directions, gradient)
            momentum = block.states[0]
            momentum.mul_(self._options.beta).add_(g * (1.0 - self._options.beta))
            # NumPy sums in one order whatever the number of threads; torch does not.
            square += float(np.square(momentum.double().cpu().numpy()).sum())
            count += momentum.numel()
            return g

        for group in groups:
            descend_blocks(group, self._states, record, self._key, rule)
        self._pull = math.sqrt(count / square) * math.cos(self._options.angle) if square else 0.0

    def state_dict(self) -> dict[str, Any]:
        """See :class:`zoft.updates.Rule`."""
        return {"pull": self._pull, "states": self._states.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`zoft.updates.Rule`."""
        self._pull = float(state["pull"])
        self._states.load_state_dict(state["states"])


@register_method("conmezo", ConmezoOptions)
def build(config: ZOConfig, options: ConmezoOptions) -> Method:
    """Build ConMeZO."""
    config = with_defaults(config, zo_eps=1e-3, num_queries=1, distribution="gaussian")
    assert config.num_queries is not None and config.zo_eps is not None
    states = ElementStates(1, 0.0)
    cone = Cone(options, states, run_key(config.seed))
    directions = KeptDirections(dense_directions(config), states, cone.shape)
    return Method(directions, TwoSided(config.num_queries, config.zo_eps), Average(), config, cone)
