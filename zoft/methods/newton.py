"""Newton steps along random directions (our own; curvature along z as in Spall 2000's adaptive SPSA, and MeZO's
estimate, arXiv 2305.17333).

With the clean loss, the two-sided losses of MeZO say how the loss curves along z, too, and the best step along z is

    theta -= lr mean_k p_k / max(|c_k|, damping c) z_k,    c the running mean of |c_k|,

at lr 1; up to q where the q directions hardly share curvature. In a model of many weights all c_k are near the
Hessian's trace, so this finds its own step size and little more; with few weights it is diagonal Newton.

Published settings: none; ours are q 1, Rademacher, zo_eps 1e-3, lr 1. State beyond inference: one scalar. Forwards a
step: 2 q + 1; the clean one is the training loss that is logged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zoft.estimators import TwoSidedWithCurvature
from zoft.method import Method, dense_directions, with_defaults
from zoft.noise import Term
from zoft.registry import register_method
from zoft.types import ZOConfig
from zoft.updates import ByCurvature, CurvatureOptions


@dataclass(frozen=True)
class NewtonOptions(CurvatureOptions):
    """Options of Newton steps along z: those of :class:`zoft.updates.CurvatureOptions`."""


class NewtonAlongDirections(ByCurvature):
    """The update."""

    def gradient(self, step: int, scalars: Sequence[float]) -> list[Term]:
        """See :class:`zoft.updates.Update`; the scalars are all slopes, then all curvatures."""
        count = len(scalars) // 2
        slopes, curvatures = scalars[:count], scalars[count:]
        least = self.least(curvatures)
        sizes = [max(abs(c), least) for c in curvatures]
        pairs = enumerate(zip(slopes, sizes, strict=True))
        return [Term(step, k, p / (count * c) if c else 0.0) for k, (p, c) in pairs]


@register_method("newton", NewtonOptions)
def build(config: ZOConfig, options: NewtonOptions) -> Method:
    """Build Newton steps along z."""
    config = with_defaults(config, zo_eps=1e-3, num_queries=1, distribution="rademacher")
    assert config.num_queries is not None and config.zo_eps is not None
    estimator = TwoSidedWithCurvature(config.num_queries, config.zo_eps)
    return Method(dense_directions(config), estimator, NewtonAlongDirections(options), config)
