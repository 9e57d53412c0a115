"""Newton's method on the span of a step's directions (our own; MeZO's estimate, arXiv 2305.17333).

The losses at theta, at both sides along each of K directions, and at the sum of each two of them, give the quadratic
model on their span: slopes p, and M with ``M_ij = z_i^T H z_j``. Its minimum is a step in which directions that share
curvature do not count twice:

    theta -= lr sum_k a_k z_k,    (M + d I) a = p.

d is ``damping`` times the running mean of the sizes on M's diagonal, or ten, a hundred, ... times as much, until no
pivot of M + d I's Cholesky factor is below that. With ``solver="cg"`` the system is solved by ``iterations`` conjugate
gradients, which stop where the curvature is negative: a Hessian-free step. Where it is along p itself, the step is p
over the size of that curvature.

Published settings: none; ours are K 4, Rademacher, zo_eps 1e-3, lr 0.3 to 1. State beyond inference: one scalar.
Forwards a step: 2 K + K (K - 1) / 2 + 1; the clean one is the training loss that is logged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zoft.checks import check_count
from zoft.errors import ConfigError
from zoft.estimators import TwoSidedWithHessian
from zoft.method import Method, dense_directions, with_defaults
from zoft.noise import Term
from zoft.registry import register_method
from zoft.types import ZOConfig
from zoft.updates import ByCurvature, CurvatureOptions
from zoft.updates.small import conjugate_gradients, solve_positive


@dataclass(frozen=True)
class SubspaceNewtonOptions(CurvatureOptions):
    """Options of subspace Newton, beside those of :class:`zoft.updates.CurvatureOptions`.

    Attributes:
        solver: ``"cholesky"``, exact, or ``"cg"``, conjugate gradients.
        iterations: Of conjugate gradients, >= 1.
    """

    solver: str = "cholesky"
    iterations: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver not in ("cholesky", "cg"):
            raise ConfigError(f"solver of subspace_newton must be 'cholesky' or 'cg', got {self.solver!r}.")
        check_count("iterations of subspace_newton", self.iterations)


class NewtonOnSpan(ByCurvature):
    """The update."""

    def __init__(self, estimator: TwoSidedWithHessian, options: SubspaceNewtonOptions) -> None:
        super().__init__(options)
        self._estimator, self._options = estimator, options

    def gradient(self, step: int, scalars: Sequence[float]) -> list[Term]:
        """See :class:`zoft.updates.Update`; for the scalars see :class:`zoft.estimators.TwoSidedWithHessian`."""
        count = self._estimator.num_queries
        slopes, diagonal = scalars[:count], scalars[count : 2 * count]
        matrix = [[diagonal[i] if i == j else 0.0 for j in range(count)] for i in range(count)]
        for (i, j), mixed in zip(self._estimator.pairs, scalars[2 * count :], strict=True):
            matrix[i][j] = matrix[j][i] = mixed
        damping = self.least(diagonal)
        if damping == 0.0:  # flat so far: nothing says how long a step should be
            return [Term(step, k, 0.0) for k in range(count)]
        if self._options.solver == "cg":
            a = conjugate_gradients(matrix, slopes, damping, self._options.iterations)
        else:
            a = solve_positive(matrix, slopes, damping)
        return [Term(step, k, coefficient) for k, coefficient in enumerate(a)]


@register_method("subspace_newton", SubspaceNewtonOptions)
def build(config: ZOConfig, options: SubspaceNewtonOptions) -> Method:
    """Build subspace Newton."""
    config = with_defaults(config, zo_eps=1e-3, num_queries=4, distribution="rademacher")
    assert config.num_queries is not None and config.zo_eps is not None
    estimator = TwoSidedWithHessian(config.num_queries, config.zo_eps)
    return Method(dense_directions(config), estimator, NewtonOnSpan(estimator, options), config)
