"""Second-order baselines: deterministic minimisers from torch and SciPy on all training rows.

They search along lines or in trust regions, so they take no learning rate. A budget may end in the middle of a
search; what counts is the best point so far. Where a Hessian is used it is that of one batch, at whatever point:
a sub-sampled Hessian beside the full gradient (Byrd, Chin, Neveitt and Nocedal 2011, SIAM J. Optim. 21(3)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zoft.bench.objective import Objective
from zoft.checks import check_count
from zoft.errors import ConfigError

Vector = npt.NDArray[np.float64]

MATRIX_LIMIT = 1_000  # weights: SciPy multiplies such matrices in every step, which at 2,410 takes a second


class BestPoint:
    """The loss over all rows and its gradient, with the weights at which it was lowest."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._lowest = float("inf")
        self._weights: list[Tensor] = []

    def loss_with_gradient(self) -> Tensor:
        """Evaluate at the present weights; an improvement counts as a step."""
        loss = self._objective.loss_with_gradient(self._objective.everything)
        if float(loss) < self._lowest:
            first = self._lowest == float("inf")
            self._lowest = float(loss)
            self._weights = [p.detach().clone() for p in self._objective.parameters.values()]
            if not first:
                self._objective.step_done()
        return loss

    @torch.no_grad()
    def restore(self) -> None:
        """Put the best weights back."""
        for parameter, weights in zip(self._objective.parameters.values(), self._weights, strict=False):
            parameter.copy_(weights)


@dataclass(frozen=True)
class Lbfgs:
    """torch's L-BFGS with a strong-Wolfe line search.

    Attributes:
        history: Pairs of differences that it keeps, >= 1.
    """

    history: int = 10
    tunes_lr = False

    def __post_init__(self) -> None:
        check_count("history", self.history)

    def minimise(self, objective: Objective, lr: float) -> None:
        """See :class:`zoft.bench.optimisers.Optimiser`."""
        best = BestPoint(objective)
        optimizer = torch.optim.LBFGS(
            objective.parameters.values(),
            history_size=self.history,
            max_iter=10**9,
            max_eval=10**9,
            line_search_fn="strong_wolfe",
        )
        try:
            optimizer.step(best.loss_with_gradient)  # type: ignore[no-untyped-call]
        finally:
            best.restore()


@dataclass(frozen=True)
class Bfgs:
    """SciPy's BFGS: a dense inverse Hessian from gradients alone."""

    tunes_lr = False

    def minimise(self, objective: Objective, lr: float) -> None:
        """See :class:`zoft.bench.optimisers.Optimiser`."""
        _check_size(objective, "BFGS")
        _minimise(objective, "BFGS")


@dataclass(frozen=True)
class NewtonCg:
    """SciPy's trust-region Newton-CG: Hessian-free, one Hessian-vector product an inner iteration."""

    tunes_lr = False

    def minimise(self, objective: Objective, lr: float) -> None:
        """See :class:`zoft.bench.optimisers.Optimiser`."""
        _minimise(objective, "trust-ncg", "hessp")


@dataclass(frozen=True)
class Newton:
    """SciPy's trust-region Newton with the whole Hessian: a Hessian-vector product for each weight and step."""

    tunes_lr = False

    def minimise(self, objective: Objective, lr: float) -> None:
        """See :class:`zoft.bench.optimisers.Optimiser`."""
        _check_size(objective, "Newton's method")
        _minimise(objective, "trust-exact", "hess")


class _Flat:
    """The trained weights as SciPy sees them: one float64 vector."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._parameters = objective.parameters
        self.size = sum(p.numel() for p in self._parameters.values())

    def read(self) -> Vector:
        return self._flat({name: p.detach() for name, p in self._parameters.items()})

    def gradient(self) -> Vector:
        return self._flat({name: p.grad for name, p in self._parameters.items() if p.grad is not None})

    @torch.no_grad()
    def write(self, vector: Vector) -> None:
        for name, values in self._shaped(vector).items():
            self._parameters[name].copy_(values)

    def hessian_product(self, rows: Tensor, vector: Vector) -> Vector:
        return self._flat(self._objective.hessian_product(rows, self._shaped(vector)))

    def hessian(self, rows: Tensor) -> Vector:
        return np.stack([self.hessian_product(rows, unit) for unit in np.eye(self.size)], axis=1)

    def _flat(self, tensors: dict[str, Tensor]) -> Vector:
        joined = torch.cat([tensors[name].reshape(-1).double().cpu() for name in self._parameters])
        return joined.numpy()

    def _shaped(self, vector: Vector) -> dict[str, Tensor]:
        parts = torch.split(torch.tensor(vector), [p.numel() for p in self._parameters.values()])
        named = zip(self._parameters.items(), parts, strict=True)
        return {name: part.view_as(p).to(p) for (name, p), part in named}


def _minimise(objective: Objective, method: str, curvature: str | None = None) -> None:
    """Run one of SciPy's minimisers; ``curvature`` names the argument by which it takes second derivatives."""
    from scipy.optimize import minimize

    flat, best = _Flat(objective), BestPoint(objective)
    known: dict[bytes, tuple[float, Vector]] = {}  # of the last point alone

    def loss_with_gradient(vector: Vector) -> tuple[float, Vector]:
        point = vector.tobytes()
        if point not in known:
            flat.write(vector)
            evaluated = float(best.loss_with_gradient()), flat.gradient()
            known.clear()
            known[point] = evaluated
        return known[point]

    def hessian(vector: Vector) -> Vector:
        loss_with_gradient(vector)  # SciPy asks for the Hessian first, and so would pay for it before it has moved
        flat.write(vector)
        return flat.hessian(objective.batch())

    def hessian_product(vector: Vector, along: Vector) -> Vector:
        flat.write(vector)
        return flat.hessian_product(objective.batch(), along)

    given = {"hess": hessian, "hessp": hessian_product}
    used = {curvature: given[curvature]} if curvature else {}
    try:
        minimize(loss_with_gradient, flat.read(), jac=True, method=method, options={"maxiter": 10**9}, **used)
    finally:
        best.restore()


def _check_size(objective: Objective, name: str) -> None:
    size = sum(p.numel() for p in objective.parameters.values())
    if size > MATRIX_LIMIT:
        raise ConfigError(
            f"{name} keeps a square matrix of the trained weights, of which it takes at most {MATRIX_LIMIT}; this "
            f"problem has {size}. Leave the method out for this problem, or train fewer weights."
        )
