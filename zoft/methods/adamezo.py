"""AdaMeZO: Adam's moments without their memory (arXiv 2605.00650).

The estimates of the last h steps are made again from their directions and scalars, so that
``m = sum_i beta1^i g_(t-i)`` and ``v = sum_i beta2^i g_(t-i)^2``, each over the sum of its weights, need not be kept;
``theta -= lr m / (sqrt(v) + epsilon)``.

Published settings: h 10, betas 0.7 and 0.9. State beyond inference: the scalars of h steps. Forwards a step: 2 q.
An update takes h times the noise of MeZO's.

Deviations: the moments are divided by the sums of their weights, as Adam corrects what it starts from. With per-element
directions that depend on the weights or on state it would make other estimates than were taken; here directions are
dense noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zoft.checks import check_count, check_positive, check_share
from zoft.directions import Directions, ElementStates
from zoft.estimators import TwoSided
from zoft.method import Method, dense_directions, with_defaults
from zoft.noise import Term, run_key
from zoft.registry import register_method
from zoft.types import StepRecord, ZOConfig
from zoft.updates import Average, Block, Group, adam_direction, descend_blocks


@dataclass(frozen=True)
class AdamezoOptions:
    """Options of AdaMeZO.

    Attributes:
        horizon: Steps, the present one included, that the moments are made of, >= 1.
        beta1: Decay of the mean, in [0, 1).
        beta2: Decay of the mean square, in [0, 1).
        epsilon: Added to its root, > 0.
    """

    horizon: int = 10
    beta1: float = 0.7
    beta2: float = 0.9
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        check_count("horizon of adamezo", self.horizon)
        for name in ("beta1", "beta2"):
            check_share(f"{name} of adamezo", getattr(self, name))
        check_positive("epsilon of adamezo", self.epsilon)


class RecomputedAdam:
    """The rule. Its state is the last steps' estimates, as terms."""

    steps_along_gradient = False

    def __init__(self, options: AdamezoOptions, key: int) -> None:
        self._options, self._key = options, key
        self._recent: list[list[Term]] = []  # the latest first

    def state_size(self, shape: torch.Size) -> int:
        """Nothing."""
        return 0

    def descend(
        self, directions: Directions, groups: Sequence[Group], gradient: Sequence[Term], record: StepRecord
    ) -> None:
        """See :class:`zoft.updates.Rule`."""
        self._recent = [list(gradient), *self._recent[: self._options.horizon - 1]]

        def rule(block: Block) -> torch.Tensor:
            mean, square, sums, weights = None, None, [0.0, 0.0], [1.0, 1.0]
            for terms in self._recent:
                g = block.total(directions, terms)
                parts = g * weights[0], g * g * weights[1]
                mean = parts[0] if mean is None else mean.add_(parts[0])
                square = parts[1] if square is None else square.add_(parts[1])
                sums = [total + weight for total, weight in zip(sums, weights, strict=True)]
                weights = [weights[0] * self._options.beta1, weights[1] * self._options.beta2]
            assert mean is not None and square is not None
            return adam_direction(mean, square, sums[0], sums[1], self._options.epsilon)

        for group in groups:
            descend_blocks(group, ElementStates(0, 0.0), record, self._key, rule)

    def state_dict(self) -> dict[str, Any]:
        """See :class:`zoft.updates.Rule`."""
        return {"recent": [[tuple(term) for term in terms] for terms in self._recent]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`zoft.updates.Rule`."""
        self._recent = [[Term(*term) for term in terms] for terms in state["recent"]]


@register_method("adamezo", AdamezoOptions)
def build(config: ZOConfig, options: AdamezoOptions) -> Method:
    """Build AdaMeZO."""
    config = with_defaults(config, zo_eps=1e-3, num_queries=1, distribution="gaussian")
    assert config.num_queries is not None and config.zo_eps is not None
    rule = RecomputedAdam(options, run_key(config.seed))
    return Method(dense_directions(config), TwoSided(config.num_queries, config.zo_eps), Average(), config, rule)
