"""BFGS on the span of directions that are kept for some steps (our own; MeZO's estimate, arXiv 2305.17333).

The same K directions serve for a window of steps (``shared_vector="window:N"``), so that successive slopes along them
are gradients of one function of K numbers, and what its Hessian is can be learned from how they change:

    a = B p,    theta -= lr sum_k a_k z_k,    B = BFGS(B, s = -lr_1 a, y = p' - p),

B of K x K scalars, ``1 / c`` on its diagonal at the start of a window, c the running mean of the curvature along
directions. A pair whose y . s is not above ``damping c |s|^2``, as batches that differ make it now and then, is passed
over, and no step is longer than ``|p| / (damping c)``.

Published settings: none; ours are K 4, a window of 5 steps, Rademacher, zo_eps 1e-3, lr 0.3. State beyond inference:
K^2 + 2 K + 1 scalars. Forwards a step: 2 K + 1; the clean one is the training loss that is logged.

Deviations: s is taken for lr 1; with another, constant lr, B adapts to it as to a change of scale.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zoft.estimators import TwoSidedWithCurvature
from zoft.method import Method, dense_directions, with_defaults
from zoft.noise import Term
from zoft.registry import register_method
from zoft.types import ZOConfig
from zoft.updates import CurvatureOptions, RunningMean
from zoft.updates.small import dot, times


@dataclass(frozen=True)
class SubspaceBfgsOptions(CurvatureOptions):
    """Options of subspace BFGS: those of :class:`zoft.updates.CurvatureOptions`."""


class BfgsOnSpan:
    """The update."""

    def __init__(self, window: int, options: SubspaceBfgsOptions) -> None:
        self._window, self._options, self._curvature = window, options, RunningMean(options.beta)
        self._began: int | None = None
        self._inverse: list[list[float]] = []
        self._slopes: list[float] = []
        self._moved: list[float] = []

    def gradient(self, step: int, scalars: Sequence[float]) -> list[Term]:
        """See :class:`zoft.updates.Update`; the scalars are all slopes, then all curvatures."""
        count = len(scalars) // 2
        slopes = list(scalars[:count])
        typical = self._curvature.take(math.fsum(map(abs, scalars[count:])) / count)
        began = step // self._window
        if began != self._began:
            scale = 1.0 / typical if typical else 0.0
            self._inverse = [[scale if i == j else 0.0 for j in range(count)] for i in range(count)]
        else:
            change = [new - old for new, old in zip(slopes, self._slopes, strict=True)]
            self._inverse = learned(self._inverse, self._moved, change, self._options.damping * typical)
        a = self._bounded(times(self._inverse, slopes), slopes, self._options.damping * typical)
        self._began, self._slopes, self._moved = began, slopes, [-x for x in a]
        return [Term(step, k, coefficient) for k, coefficient in enumerate(a)]

    @staticmethod
    def _bounded(a: list[float], slopes: list[float], least: float) -> list[float]:
        """Return a step no longer than one against the least curvature that counts: a pair may be mostly noise."""
        size, limit = math.sqrt(dot(a, a)), math.sqrt(dot(slopes, slopes)) / least if least else 0.0
        return [x * limit / size for x in a] if size > limit else a

    def state_dict(self) -> dict[str, Any]:
        """What is known of the present window, and the running curvature."""
        return {
            "began": self._began,
            "inverse": [list(row) for row in self._inverse],
            "slopes": list(self._slopes),
            "moved": list(self._moved),
            "curvature": self._curvature.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`zoft.updates.Update`."""
        self._began = state["began"]
        self._inverse = [list(row) for row in state["inverse"]]
        self._slopes, self._moved = list(state["slopes"]), list(state["moved"])
        self._curvature.load_state_dict(state["curvature"])


def learned(inverse: list[list[float]], s: list[float], y: list[float], least: float) -> list[list[float]]:
    """Return ``(I - r s y^T) B (I - r y s^T) + r s s^T``, r = 1 / (y . s); B itself if ``y . s < least |s|^2``."""
    overlap = dot(y, s)
    if not overlap > max(0.0, least * dot(s, s)):
        return inverse
    by = times(inverse, y)
    weight = (1.0 + dot(y, by) / overlap) / overlap
    n = range(len(s))
    return [[inverse[i][j] - (by[i] * s[j] + s[i] * by[j]) / overlap + weight * s[i] * s[j] for j in n] for i in n]


@register_method("subspace_bfgs", SubspaceBfgsOptions)
def build(config: ZOConfig, options: SubspaceBfgsOptions) -> Method:
    """Build subspace BFGS."""
    if config.shared_vector == "batch":
        config = dataclasses.replace(config, shared_vector="window:5")
    config = with_defaults(config, zo_eps=1e-3, num_queries=4, distribution="rademacher")
    assert config.num_queries is not None and config.zo_eps is not None
    estimator = TwoSidedWithCurvature(config.num_queries, config.zo_eps)
    return Method(dense_directions(config), estimator, BfgsOnSpan(config.window, options), config)
