"""What an optimiser sees of a run: losses, gradients and curvature, each paid for before it is computed.

The unit is one forward on a batch of ``batch_size`` rows; more rows cost more in proportion. What is not a forward
is counted in forwards by one rule: a backward pass costs twice what it goes back through. So

- a loss costs 1, and one that carries tangents with it, as forward gradients do, 2;
- a loss and its gradient cost 3;
- a Hessian-vector product costs 6: forward-mode differentiation carries a tangent beside every number of a
  gradient (Pearlmutter 1994, Neural Computation 6(1)).

Memory and time are measured beside it, since on them the three kinds of methods differ in other ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp

from zoft.bench.problems.protocol import Problem
from zoft.errors import NonFiniteLossError

LOSS, GRADIENT, HESSIAN_PRODUCT = 1, 3, 6


class BudgetSpentError(Exception):
    """The next evaluation would cost more than is left; it was not made. Ends a run, and is no failure."""


class Objective:
    """A problem's training loss, with a purse.

    Args:
        problem: What is trained.
        seed: Decides the order of the batches.
        budget_forwards: What may be spent.
        after_step: Called after each step, with the weights as that step left them.

    Attributes:
        batch_size: Rows of a batch: the problem's, or all that there are.
        spent: Forwards paid for so far.
        steps: Steps taken so far.
    """

    def __init__(
        self, problem: Problem, seed: int, budget_forwards: float, after_step: Callable[[Objective], None]
    ) -> None:
        self.problem = problem
        self.seed = seed
        self.batch_size = min(problem.batch_size, problem.train_rows)
        self.spent = 0.0
        self.steps = 0
        self._budget = budget_forwards
        self._after_step = after_step
        self._epoch = (-1, torch.empty(0, dtype=torch.long))
        self.parameters = {name: p for name, p in problem.model.named_parameters() if p.requires_grad}
        self.everything = torch.arange(problem.train_rows)

    def batch(self) -> Tensor:
        """Return the present step's rows, [batch_size]; each epoch is a permutation of all rows."""
        size = self.batch_size
        epoch, place = divmod(self.steps, self.problem.train_rows // size)
        if self._epoch[0] != epoch:
            generator = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
            self._epoch = (epoch, torch.randperm(self.problem.train_rows, generator=generator))
        return self._epoch[1][place * size : (place + 1) * size]

    def losses(self, rows: Tensor, price: float = LOSS) -> Tensor:
        """Return the loss of each of some training rows, [B].

        Args:
            rows: Their numbers.
            price: Of this evaluation on one batch; more than a loss costs if it carries tangents.
        """
        self._pay(price, rows)
        return self._finite(self.problem.losses(rows))

    def loss(self, rows: Tensor, price: float = LOSS) -> Tensor:
        """Return the mean of :meth:`losses`."""
        return self.losses(rows, price).mean()

    def loss_with_gradient(self, rows: Tensor) -> Tensor:
        """Return the mean loss of some training rows, and leave its gradient in the parameters' ``grad``."""
        self._pay(GRADIENT, rows)
        parameters = list(self.parameters.values())
        with torch.enable_grad():
            loss = self.problem.losses(rows).mean()
            # A weight that the loss does not read, such as a pooler's, has slope zero.
            slopes = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        for parameter, slope in zip(parameters, slopes, strict=True):
            parameter.grad = slope
        return self._finite(loss.detach())

    def hessian_product(self, rows: Tensor, vector: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the Hessian of some rows' mean loss, times a vector shaped as the parameters."""
        self._pay(HESSIAN_PRODUCT, rows)

        def loss(parameters: dict[str, Tensor]) -> Tensor:
            result: Tensor = functional_call(_Loss(self.problem, rows), parameters, ())
            return result

        at = {f"model.{name}": parameter.detach() for name, parameter in self.parameters.items()}
        along = {f"model.{name}": value for name, value in vector.items()}
        product = jvp(grad(loss), (at,), (along,))[1]
        return {name.removeprefix("model."): value for name, value in product.items()}

    def step_done(self) -> None:
        """Say that a step is complete: the weights as they are now are the run's."""
        self.steps += 1
        self._after_step(self)

    def _pay(self, price: float, rows: Tensor) -> None:
        cost = price * len(rows) / self.batch_size
        if self.spent + cost > self._budget:
            raise BudgetSpentError
        self.spent += cost

    def _finite(self, losses: Tensor) -> Tensor:
        mean = float(losses.detach().mean())
        if not math.isfinite(mean):
            raise NonFiniteLossError(f"the loss is {mean} at step {self.steps}.")
        return losses


class _Loss(torch.nn.Module):
    """A problem's loss as a module, which torch.func can evaluate at other weights."""

    def __init__(self, problem: Problem, rows: Tensor) -> None:
        super().__init__()
        self.model = problem.model
        self._problem, self._rows = problem, rows

    def forward(self) -> Tensor:
        return self._problem.losses(self._rows).mean()
