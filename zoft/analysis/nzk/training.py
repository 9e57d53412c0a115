"""Real zeroth-order training by each rule. Whatever the rule, ``ZOEngine.apply`` writes the weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import nn
from torch.func import vmap
from tqdm import tqdm

from zoft.analysis.nzk.outputs import Outputs, inner, one_each
from zoft.analysis.nzk.rules import rule_named
from zoft.checks import check_not_negative
from zoft.engine import ZOEngine, evaluating
from zoft.errors import ConfigError
from zoft.parameters import select
from zoft.types import Estimate, ZOConfig

__all__ = ["train"]


def train(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    rule: str,
    lr: float,
    record_at: Collection[int],
    seed: int = 0,
    distribution: str = "gaussian",
    zo_eps: float = 1e-3,
    progress: bool = False,
) -> Iterator[tuple[int, float]]:
    """Train on the squared loss ``sum_j (f(x_j) - y_j)^2 / (2 n)`` of one fixed batch.

    ``mezo`` is method ``mezo`` of the engine. ``nzk_shared`` is the same with the learning rate ``lr |z|^2``, for its
    update is that and nothing else. The other two hand the engine records of several queries: each scales its own z.

    Args:
        model: Maps x to one number a row. It is trained in place.
        x: ``[n, ...]``.
        y: ``[n]``.
        rule: A name in :data:`zoft.analysis.nzk.RULES`.
        lr: Learning rate, >= 0.
        record_at: Numbers of steps taken after which to report; training ends with the largest.
        seed: The run's seed.
        distribution: ``"gaussian"`` or ``"rademacher"``.
        zo_eps: Perturbation scale. For models linear in their weights any gives the same result, up to rounding.
        progress: Show a bar.

    Yields:
        The number of steps taken and the loss at the weights, which are the model's at that moment.

    Raises:
        ConfigError: If an argument is out of range, or the model does not return one number a row.
        NonFiniteLossError: If the loss overflows.
    """
    rule_named(rule)
    check_not_negative("lr", lr)
    if y.shape != (len(x),):
        raise ConfigError(f"y must hold one number for each of the {len(x)} rows of x, got shape {tuple(y.shape)}.")
    if not record_at or min(record_at) < 0:
        raise ConfigError(f"record_at must hold numbers of steps >= 0, got {list(record_at)!r}.")
    queries = {"per_example": len(x), "nzk_independent": 2}.get(rule, 1)
    config = ZOConfig(
        "mezo", zo_eps=zo_eps, num_queries=queries, seed=seed, distribution=distribution, placement="snapshot"
    )  # a batch this small needs no streaming
    trainables = select(model)
    engine = ZOEngine(model, config, trainables, [0] * len(trainables), [0.0])
    outputs = Outputs(model, engine.trainables, engine.directions)

    def loss() -> torch.Tensor:
        residuals = one_each(model(x), x) - y
        return residuals.square().mean() / 2.0

    wanted = frozenset(record_at)
    for step in tqdm(range(max(wanted) + 1), desc=rule, disable=None if progress else True, leave=False):
        if step in wanted:
            with evaluating(model), torch.no_grad():
                now = float(loss())
            yield step, now
        if step == max(wanted):
            return
        scale = 1.0
        if rule == "per_example":
            with evaluating(model):
                estimate = _estimate_per_example(outputs, x, y, step, zo_eps)
        else:
            estimate = engine.estimate(loss)
        if rule == "nzk_shared":
            z = outputs.draw([(step, 0)])
            scale = float(inner(z, z))
        elif rule == "nzk_independent":
            overlap = float(inner(outputs.draw([(step, 0)]), outputs.draw([(step, 1)])))
            # The update averages over the two queries, of which the first, z itself, is not to move anything.
            estimate = Estimate(estimate.loss, (0.0, 2.0 * overlap * estimate.scalars[0]))
        engine.apply(engine.record([*estimate.scalars, estimate.loss], [lr * scale]))


def _estimate_per_example(outputs: Outputs, x: torch.Tensor, y: torch.Tensor, step: int, zo_eps: float) -> Estimate:
    """Return the projected gradient of each example's own loss along its own direction, query j of the step."""
    z = outputs.draw([(step, j) for j in range(len(x))])
    points = [{n: w + s * z[n] for n, w in outputs.weights().items()} for s in (zo_eps, -zo_eps)]
    with torch.no_grad():
        evaluate = vmap(lambda weights, row: outputs.at(weights, row[None])[0])
        plus, minus = ((evaluate(point, x) - y).square() / 2.0 for point in points)
    return Estimate(float((plus + minus).mean() / 2.0), tuple(((plus - minus) / (2.0 * zo_eps)).tolist()))
