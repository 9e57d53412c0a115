"""Differentially private steps: charge, evaluate, clip, sum, noise, publish, in this order.

The charge is on the disk before an example is looked at, and the noised scalars are before the weights move. Whatever
interrupts a step in between, its charge stays, and nothing of its batch or its noise is used again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from zoft.distributed import Replicas
from zoft.engine import ZOEngine, float32
from zoft.errors import ConfigError, PrivacyBudgetError, ReplayError
from zoft.log_file import ReplayLog
from zoft.privacy.chance import drawing_nothing
from zoft.privacy.clip_quantile import threshold_after
from zoft.privacy.mechanism import PrivateSum, release
from zoft.privacy.plan import PrivacyPlan
from zoft.types import LossFn, StepRecord


class PrivateSteps:
    """A private run: its plan, and what it has spent.

    Attributes:
        plan: What is public about the run.
        charged: Steps that are paid for: those taken, and those that something interrupted.
    """

    def __init__(self, engine: ZOEngine, replicas: Replicas, plan: PrivacyPlan) -> None:
        if plan.num_scalars != engine.num_scalars:
            raise ConfigError(
                f"the privacy plan is for num_scalars={plan.num_scalars}; method {engine.config.method!r} releases "
                f"{engine.num_scalars} numbers a step."
            )
        self.plan = plan
        self.charged = 0
        self._engine, self._replicas = engine, replicas
        self._has_log = False
        self._log: ReplayLog | None = None  # on the process that writes it
        self._affordable = 0
        self._shares: list[float] = []  # what the measuring steps released
        self._epsilons = {0: 0.0}
        self._leaf = torch.zeros((), requires_grad=True)
        self.forget()

    # --- what is spent ----------------------------------------------------------------------------------

    def __str__(self) -> str:
        return f"{self.charged} charges cost epsilon {self.epsilon:.4g}{self.plan.config.at_delta}"

    @property
    def epsilon(self) -> float:
        """What the run has cost so far; it never gets less."""
        if self.charged not in self._epsilons:
            # An accountant's numerical error may take back a little of what the step before had cost.
            self._epsilons[self.charged] = max(self.plan.epsilon(self.charged), *self._epsilons.values())
        return self._epsilons[self.charged]

    @property
    def is_spent(self) -> bool:
        """Whether another step would cost more than was promised."""
        target = self.plan.config.dp_target_epsilon
        if target is None:
            return False
        if self.charged >= self._affordable and self.plan.epsilon(self.charged + 1) <= target:
            self._affordable = self.charged + 1  # more than was planned
        return self.charged >= self._affordable

    @property
    def clip_threshold(self) -> float:
        """Largest norm of an example's vector of slopes that counts, at the present step."""
        if self.plan.config.dp_clip_quantile is None:
            return self.plan.first_clip
        return threshold_after(self._shares, first=self.plan.first_clip, quantile=self.plan.config.dp_clip_quantile)

    @property
    def figures(self) -> dict[str, Any]:
        """What a finished run's summary says of its privacy: nothing that is not public."""
        return {
            "epsilon": round(self.epsilon, 4),
            "delta": self.plan.config.dp_target_delta,
            "charged": self.charged,
            "noise_multiplier": self.plan.noise_multiplier,
            "sample_rate": self.plan.sample_rate,
            "clip_threshold": self.clip_threshold,
        }

    def begin(self, log: ReplayLog | None, *, intents: int, records: Sequence[StepRecord]) -> None:
        """Start with a log, or go on with it.

        Args:
            log: The log, on the process that writes it.
            intents: How many intents it holds.
            records: Its records.

        Raises:
            ReplayError: If a checkpoint knows of more charges than the log.
        """
        if intents < max(self.charged, len(records)):
            raise ReplayError(
                f"the log holds {intents} charges, the checkpoint {self.charged} and {len(records)} steps were taken: "
                "this is an earlier copy of the log. Resume with the one that the run left last."
            )

        self._has_log, self._log = True, log
        self.charged = intents
        self._shares = [record.scalars[0] for record in records[: self.plan.measuring_steps]]
        wasted = intents - len(records)
        self._affordable = self.plan.affordable(max(self.plan.steps, intents) + wasted)
        self.forget()

    def going_on(self, logged: Mapping[str, Any]) -> dict[str, Any]:
        """Take the noise multiplier of the run that is gone on with, by its plan in the log.

        Returns:
            What that plan must be. Only the number of steps may be another now.
        """
        self.plan = dataclasses.replace(self.plan, noise_multiplier=logged["noise_multiplier"])
        return {**self.plan.to_dict(), "steps": logged["steps"]}

    # --- steps: see zoft.optim.gathering.Gathering ------------------------------------------------------

    def note(self, closure: Sequence[LossFn]) -> torch.Tensor:
        """Evaluate some examples of the batch, by one closure each; what stands for their loss is NaN.

        Raises:
            PrivacyBudgetError: If the budget does not pay for another step.
            ConfigError: If there is no log, one closure instead of a list, or a loss that draws random numbers.
        """
        if callable(closure):
            raise ConfigError(
                "a private step needs each example's loss: pass a list with one closure for each example of the batch "
                "(an empty list for an empty batch), got a single closure."
            )
        try:
            self._charge()
            with drawing_nothing("the loss"):
                estimates = self._engine.estimates(closure)
            for estimate in estimates:
                self._sum.add(self._vector(estimate.scalars))
        except BaseException:
            self.forget()  # or examples would count twice in a second attempt
            raise
        return self._no_loss()

    def shown(self, record: StepRecord) -> torch.Tensor:
        """The same."""
        return self._no_loss()

    def record(self, closure: Sequence[LossFn] | None, lrs: Sequence[float]) -> StepRecord:
        """Make the step's record: noised scalars, and no loss."""
        if closure is not None:
            self.forget()  # of an attempt that was interrupted: its examples are not in this batch
            self.note(closure)
        if not self._is_paid:
            raise ConfigError(
                "step() has nothing to go by: pass a list of closures, one for each example, or call "
                "optimizer.loss([...]).backward() first."
            )
        total = self._replicas.total(
            self._sum.total, same={f"lr of parameter group {group}": lr for group, lr in enumerate(lrs)}
        )
        clip_threshold = self._sum.clip_threshold
        self.forget()
        plan = self.plan

        def published() -> list[float]:
            return release(
                total,
                mechanism=plan.config.dp_mechanism,
                noise_multiplier=plan.noise_multiplier,
                clip_threshold=clip_threshold,
                expected_batch_size=plan.expected_batch_size,
            )

        scalars = float32(self._replicas.from_first(published))  # one process draws the noise, once
        step, measures = self._engine.step, self._measures
        if measures:
            self._shares = [*self._shares[:step], scalars[0]]  # less what could not be logged
            scalars = (scalars[0], *[0.0] * (plan.num_scalars - 1))
        return StepRecord(step, math.nan, scalars, float32(lrs), skipped=measures)

    def forget(self) -> None:
        """Forget the examples that were noted since the last step; what they were charged stays charged."""
        self._is_paid = False
        self._leaf.grad = None
        self._sum = PrivateSum(1, 1.0) if self._measures else PrivateSum(self.plan.num_scalars, self.clip_threshold)

    @property
    def _measures(self) -> bool:
        """Whether the present step measures the clip threshold."""
        return self._engine.step < self.plan.measuring_steps

    def _vector(self, slopes: Sequence[float]) -> Sequence[float]:
        if not self._measures:
            return slopes
        return [1.0 if math.hypot(*slopes) <= self.clip_threshold else 0.0]

    def _no_loss(self) -> torch.Tensor:
        with torch.enable_grad():
            return 0.0 * self._leaf.to(self._engine.loss_device) + math.nan

    def _charge(self) -> None:
        if self._is_paid:
            return
        if not self._has_log:
            raise ConfigError(
                "a private run needs a log, which is its ledger: ZOOptimizer(..., log=path), start_log or resume_log."
            )
        if self.is_spent:
            config = self.plan.config
            raise PrivacyBudgetError(
                f"the budget is spent: {self.charged} steps cost epsilon {self.epsilon:.4g}, and another one would "
                f"exceed dp_target_epsilon={config.dp_target_epsilon}."
            )
        self.forget()
        try:
            self.charged = self._replicas.from_first(self._intend)
        except BaseException:
            if self._log is not None:
                self.charged = self._log.intents  # it may be written all the same: a Ctrl-C comes when it is
            raise
        self._is_paid = True

    def _intend(self) -> int:
        assert self._log is not None
        self._log.intend()
        return self._log.intents
