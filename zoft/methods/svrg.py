"""MeZO-SVRG: variance reduction against an anchor (Gautam et al. 2024, arXiv 2404.08080).

Every ``period`` steps the weights become the anchor, whose gradient estimate g0 is taken with twice the directions. The
steps between correct it by the difference of two estimates along the same directions on the step's own batch:

    g = mean_k (p_k(theta) - p_k(anchor)) z_k + g0,    theta -= lr g.

Published settings: an anchor every few steps, MeZO's zo_eps, lr by the task. State beyond inference: the scalars of a
period. Forwards a step: 4 q.

Deviations: the anchor is not stored. It is the weights plus the steps since, whose directions are made again, so weight
decay moves it along with the weights, and with 16-bit weights it is off by their rounding. Its estimate is taken on its
step's own batch; accumulate micro-batches to make that large. One learning rate for all steps, and for all parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zoft.checks import check_count
from zoft.directions import Directions
from zoft.estimators import Point, TwoSided
from zoft.method import Method, dense_directions, with_defaults
from zoft.noise import Term
from zoft.registry import register_method
from zoft.types import Estimate, StepRecord, ZOConfig
from zoft.updates import Group, Sgd
from zoft.updates.stateless import Stateless


@dataclass(frozen=True)
class SvrgOptions:
    """Options of MeZO-SVRG.

    Attributes:
        period: Steps from one anchor to the next, >= 1; 1 is MeZO with 2 q queries.
    """

    period: int = 5

    def __post_init__(self) -> None:
        check_count("period of svrg", self.period)


class Anchor:
    """Where the anchor is, and what the gradient there was estimated to be.

    Attributes:
        age: Steps since the anchor was set; None before the first.
        offset: ``anchor - theta``, as scaled directions.
        gradient: The estimate at the anchor, likewise.
    """

    def __init__(self, period: int) -> None:
        self.period = period
        self.age: int | None = None
        self.offset: tuple[Term, ...] = ()
        self.gradient: tuple[Term, ...] = ()

    @property
    def is_due(self) -> bool:
        """Whether the present step sets a new one."""
        return self.age is None or self.age >= self.period


@dataclass(frozen=True)
class AnchoredEstimator:
    """Slopes along q directions at theta and at the anchor; in a step that sets the anchor, along 2 q at theta."""

    num_queries: int
    zo_eps: float
    anchor: Anchor

    kind = "slopes"

    @property
    def num_scalars(self) -> int:
        """Two slopes for each query."""
        return 2 * self.num_queries

    @property
    def forwards(self) -> int:
        """Four for each query."""
        return 4 * self.num_queries

    def points(self, step: int) -> list[Point]:
        """See :class:`zoft.estimators.Estimator`."""
        if self.anchor.is_due:
            return TwoSided(2 * self.num_queries, self.zo_eps).points(step)
        here = TwoSided(self.num_queries, self.zo_eps).points(step)
        there = [Point(f"{p.name} at the anchor", (*self.anchor.offset, *p.terms)) for p in here]
        return [*here, *there]

    def estimate(self, losses: Sequence[float]) -> Estimate:
        """See :class:`zoft.estimators.Estimator`; the loss is that of the points around theta alone."""
        slopes = TwoSided(2 * self.num_queries, self.zo_eps).estimate(losses).scalars
        here = losses[: 2 * self.num_queries]
        return Estimate(sum(here) / len(here), slopes)

    def projected_grads(self, scalars: Sequence[float]) -> list[float]:
        """See :class:`zoft.estimators.Estimator`."""
        return list(scalars[: self.num_queries])


class CorrectedByAnchor(Stateless):
    """The update. It sets the anchor's gradient when that is due."""

    def __init__(self, anchor: Anchor) -> None:
        self._anchor = anchor

    def gradient(self, step: int, scalars: Sequence[float]) -> list[Term]:
        """See :class:`zoft.updates.Update`."""
        anchor, count = self._anchor, len(scalars) // 2
        if anchor.is_due:
            anchor.gradient = tuple(Term(step, k, slope / len(scalars)) for k, slope in enumerate(scalars))
            anchor.age, anchor.offset = 0, ()
            return list(anchor.gradient)
        pairs = zip(scalars[:count], scalars[count:], strict=True)
        corrections = [Term(step, k, (here - there) / count) for k, (here, there) in enumerate(pairs)]
        return [*corrections, *anchor.gradient]


class AnchorKeepingSgd:
    """Plain descent that notes how far theta has moved from the anchor."""

    steps_along_gradient = False  # the anchor's estimate is in each step of a period

    def __init__(self, anchor: Anchor) -> None:
        self._anchor = anchor

    def state_size(self, shape: torch.Size) -> int:
        """Nothing."""
        return 0

    def descend(
        self, directions: Directions, groups: Sequence[Group], gradient: Sequence[Term], record: StepRecord
    ) -> None:
        """See :class:`zoft.updates.Rule`."""
        Sgd().descend(directions, groups, gradient, record)
        moved: dict[tuple[int, int], float] = {}
        steps = [Term(t.step, t.query, groups[0].lr * t.coefficient) for t in gradient]
        for step, query, coefficient in (*self._anchor.offset, *steps):
            moved[step, query] = moved.get((step, query), 0.0) + coefficient
        self._anchor.offset = tuple(Term(*address, coefficient) for address, coefficient in moved.items())
        assert self._anchor.age is not None
        self._anchor.age += 1

    def state_dict(self) -> dict[str, Any]:
        """See :class:`zoft.updates.Rule`."""
        anchor = self._anchor
        return {
            "age": anchor.age,
            "offset": [tuple(term) for term in anchor.offset],
            "gradient": [tuple(term) for term in anchor.gradient],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`zoft.updates.Rule`."""
        self._anchor.age = state["age"]
        self._anchor.offset = tuple(Term(*term) for term in state["offset"])
        self._anchor.gradient = tuple(Term(*term) for term in state["gradient"])


@register_method("svrg", SvrgOptions)
def build(config: ZOConfig, options: SvrgOptions) -> Method:
    """Build MeZO-SVRG."""
    config = with_defaults(config, zo_eps=1e-3, num_queries=1, distribution="gaussian")
    assert config.num_queries is not None and config.zo_eps is not None
    anchor = Anchor(options.period)
    estimator = AnchoredEstimator(config.num_queries, config.zo_eps, anchor)
    # The anchor is found again by the steps since, which are the same for all parameters if their learning rates are.
    return Method(
        dense_directions(config),
        estimator,
        CorrectedByAnchor(anchor),
        config,
        AnchorKeepingSgd(anchor),
        needs_one_lr=True,
    )
