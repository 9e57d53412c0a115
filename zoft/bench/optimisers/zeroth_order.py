"""Every registered zeroth-order method, through ``ZOOptimizer``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from zoft.bench.objective import Objective
from zoft.method import build_method
from zoft.optim import ZOOptimizer
from zoft.types import ZOConfig


@dataclass(frozen=True)
class ZerothOrder:
    """A method of the registry; the other options are those of :class:`zoft.ZOConfig`, which says what they mean.

    ``placement`` says where perturbed weights are kept, which changes time and memory; methods that do not move
    weights have one of their own. With ``auto`` and ``stream`` the first step costs two more forwards: the proof that
    all weights are reached. With ``zo_lr: auto`` nothing is tuned, and all that it evaluates is paid for.
    """

    method: str
    zo_eps: float | None = None
    num_queries: int | None = None
    distribution: str | None = None
    shared_vector: str = "batch"
    placement: str = "auto"
    zo_lr: str | None = None
    method_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        build_method(self._config(seed=0))

    @property
    def tunes_lr(self) -> bool:
        """See :class:`zoft.bench.optimisers.Optimiser`."""
        return self.zo_lr is None

    def minimise(self, objective: Objective, lr: float) -> None:
        """See :class:`zoft.bench.optimisers.Optimiser`; an unfinished estimate leaves the weights alone."""
        optimizer = ZOOptimizer(objective.problem.model, lr, self._config(objective.seed))
        engine = optimizer.engine
        closure = objective.losses if engine.method.evaluation == "per_example" else objective.loss
        while True:
            # By what a method says that a step costs: an evaluation that carries tangents is worth two.
            price = engine.method.estimator.forwards / len(engine.method.estimator.points(engine.step))
            optimizer.step(partial(closure, objective.batch(), price))
            objective.step_done()

    def _config(self, seed: int) -> ZOConfig:
        config = ZOConfig(
            method=self.method,
            zo_eps=self.zo_eps,
            num_queries=self.num_queries,
            seed=seed,
            distribution=self.distribution,
            shared_vector=self.shared_vector,
            zo_lr=self.zo_lr,
            method_kwargs=self.method_kwargs,
        )
        moves_weights = build_method(config).evaluation == "moved"
        return replace(config, placement=self.placement) if moves_weights else config
