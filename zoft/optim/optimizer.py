"""``ZOOptimizer``: zeroth-order steps behind torch's own optimizer protocol."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoft.distributed import Replicas
from zoft.engine import ZOEngine, float32
from zoft.errors import ConfigError, ReplayError, ZoftWarning
from zoft.estimators import num_shares
from zoft.optim.gathering import Gathering
from zoft.optim.groups import check_rates, check_unchanged, default_groups, group_numbers
from zoft.optim.private import PrivateSteps
from zoft.optim.run_log import RunLog, check_last_step, check_settings
from zoft.optim.seam import Seam
from zoft.parameters import select
from zoft.privacy.plan import PrivacyPlan
from zoft.privacy.qualify import check_model, private_config
from zoft.replay_log import ReplayLog, check_base, describe, fingerprint, hashes, make_header
from zoft.step_size import AutoStepSize, GivenStepSize, StepSize
from zoft.types import LossFn, StepRecord, ZOConfig


class ZOOptimizer(torch.optim.Optimizer):
    """Forward-only optimizer: ``loss = opt.step(lambda: model(**batch).loss)``.

    Learning-rate schedulers, ``state_dict`` and parameter groups work as in torch. In loops that call
    ``loss.backward()`` and then ``step()`` without a closure, use :meth:`loss` (the autograd seam): it
    returns a loss whose backward pass only sums a handful of scalars.

    Args:
        model: The model; parameters are selected by ``config.include`` and ``config.exclude``.
        lr: Learning rate, >= 0.
        config: The zeroth-order configuration.
        weight_decay: Weight decay, >= 0, on parameters with two or more dimensions (none on biases and
            norms, as in MeZO). Ignored where ``param_groups`` sets its own.
        param_groups: torch parameter groups (``{"params": [...], "lr": ..., "weight_decay": ...}``) that
            together hold exactly the selected parameters.
        privacy: Makes the run differentially private, as planned. Steps then take a list with one closure for each
            example of a Poisson-sampled batch (:class:`zoft.privacy.PoissonBatches`) and yield no loss.
        log: Path at which to start a replay log. With several processes the first one's counts, and writes it.

    Raises:
        ConfigError: If a setting is out of range or the groups do not match the selection.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        config: ZOConfig | None = None,
        *,
        weight_decay: float = 0.0,
        param_groups: Sequence[dict[str, Any]] | None = None,
        privacy: PrivacyPlan | None = None,
        log: str | os.PathLike[str] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ConfigError(
                f"model must be a torch.nn.Module, got {type(model).__name__}: ZOOptimizer takes the model itself, not "
                "its parameters. Choose among them by ZOConfig(include=[...], exclude=[...]) or requires_grad."
            )
        config = ZOConfig.of(config)
        if privacy is not None:
            config = private_config(config)
            check_model(model)
        check_rates({"lr": lr, "weight_decay": weight_decay})
        trainables = select(model, config.include, config.exclude)
        if param_groups is None:
            param_groups = default_groups(trainables, weight_decay)
        super().__init__(list(param_groups), {"lr": lr, "weight_decay": weight_decay})
        for group in self.param_groups:
            check_rates(group)
        numbers = group_numbers(self.param_groups, trainables)

        self.replicas = Replicas.current(config.query_parallel_size)
        self.engine = ZOEngine(
            model,
            config,
            trainables,
            numbers,
            [group["weight_decay"] for group in self.param_groups],
        )
        shares = num_shares(self.engine.method.estimator.points(0))
        if shares < config.query_parallel_size:
            raise ConfigError(
                f"query_parallel_size={config.query_parallel_size} processes cannot share a step of method "
                f"{config.method!r}, which has {shares} part(s): raise num_queries (--zo_num_queries) or lower "
                "query_parallel_size."
            )
        self.step_size: StepSize = GivenStepSize()
        self.engine.method.check_lrs(self._lrs)
        if config.zo_lr == "auto":
            self.step_size = AutoStepSize(self.engine, self._lrs, choose_eps=config.zo_eps is None)
        self.privacy = None if privacy is None else PrivateSteps(self.engine, self.replicas, privacy)
        self._gathering: Gathering = self.privacy or Seam(self.engine, self.replicas, self.step_size)
        self.last_record: StepRecord | None = None
        self._evaluated = 0  # steps, as opposed to those repeated from a log
        self._run_log = RunLog(self.replicas)
        self._said_lr = False  # once a run, not once a step
        if self.replicas.from_first(lambda: log is not None):
            self.start_log(log or "")  # only the first process opens it

    @property
    def _lrs(self) -> list[float]:
        return [float(group["lr"]) for group in self.param_groups]

    # --- steps ------------------------------------------------------------------------------------------

    def loss(self, loss_fn: LossFn | Sequence[LossFn]) -> torch.Tensor:
        """Estimate on one micro-batch; return its loss at theta, ready for ``backward()``.

        The value is the loss; its gradient with respect to a tiny internal leaf is the method's scalars. So
        whatever a training loop does to losses (scaling, accumulation) happens to the scalars too.

        Args:
            loss_fn: A closure that runs one forward on a fixed batch and returns the scalar mean loss. In a private
                run: a list of closures, one for each example; the examples of all micro-batches count alike.

        Returns:
            A float32 scalar on the device of the closure's losses; NaN in a private run.
        """
        recorded = self.recorded
        return self._gathering.note(loss_fn) if recorded is None else self._gathering.shown(recorded)

    def step(  # type: ignore[override]
        self, closure: Callable[[], Any] | Sequence[Callable[[], Any]] | None = None
    ) -> torch.Tensor:
        """Take one step.

        Args:
            closure: Runs one forward on a fixed batch and returns the scalar mean loss; must not call
                ``backward()``. In a private run: a list, one for each example. Without it, the step uses the losses
                made by :meth:`loss` since the last one.

        Returns:
            The loss at theta, before the step; NaN in a private run.

        Raises:
            NonFiniteLossError: See :meth:`zoft.engine.ZOEngine.estimate`.
            PrivacyBudgetError: If the budget of a private run does not pay for another step.
            ConfigError: If there is neither a closure nor a loss that was backpropagated.
        """
        check_unchanged(self.param_groups, self.engine.weight_decays)
        lrs = self._lrs
        self.engine.method.check_lrs(lrs)
        record = self.recorded
        if record is None:
            self._check_replicas()
            record = self._gathering.record(closure, lrs)
            self._run_log.append(record, flush=self.privacy is not None)
        elif record.lrs != float32(self.step_size.rates(record, lrs)) and not self._said_lr:
            self._said_lr = True
            warnings.warn(
                f"step {record.step} was logged with lr {record.lrs}, the schedule now says {lrs}; the log is followed "
                "for the steps that it holds.",
                ZoftWarning,
                stacklevel=2,
            )
        # Before the weights, after which a Ctrl-C that was held back surfaces: the step is then complete.
        self._gathering.forget()
        self.last_record = record
        self.step_size.took(record)
        self.engine.apply(record)
        return torch.tensor(record.loss)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the losses that were backpropagated since the last step."""
        super().zero_grad(set_to_none)
        self._gathering.forget()

    def _check_replicas(self) -> None:
        """At this object's first step, and every ``replica_check_steps`` steps: are all processes still the same?"""
        self._evaluated += 1
        if self.replicas.size > 1 and self._evaluated == 1:
            settings = {k: repr(v) for k, v in self._description.items()}
            self.replicas.check_same(settings, "settings", "Start every process with the same recipe and flags.")
            self._check_weights(fingerprint)
        elif (self._evaluated - 1) % self.engine.config.replica_check_steps == 0:
            self.check_replicas()

    def check_replicas(self) -> None:
        """With several processes: make sure that their trained weights are the same; all processes must call it.

        Steps do so every ``replica_check_steps`` steps, and a Trainer at the end; a loop of your own may.

        Raises:
            DistributedError: If they differ; names the first parameter that does.
        """
        self._check_weights(lambda model: hashes({t.name: t.slot for t in self.engine.trainables}))

    def _check_weights(self, table: Callable[[nn.Module], dict[str, str]]) -> None:
        # Of sharded weights the processes hold different parts.
        if self.replicas.size > 1 and not any(t.slot.is_sharded for t in self.engine.trainables):
            self.replicas.check_same(
                table(self.engine.model),
                f"weights before step {self.engine.step}",
                "Load the same checkpoint in every process, with the same seed for what is freshly initialised, and "
                "change weights nowhere but in the optimizer's step.",
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Called by torch while the optimizer is made; afterwards the groups are fixed.

        Raises:
            ConfigError: If the optimizer is already made.
        """
        if hasattr(self, "engine"):
            raise ConfigError("a parameter group cannot be added to a run; pass param_groups=[...] at the start.")
        super().add_param_group(param_group)

    # --- log and state ----------------------------------------------------------------------------------

    def start_log(self, path: str | os.PathLike[str]) -> None:
        """Start a replay log at ``path``. The weights must be the run's base weights.

        Raises:
            ConfigError: If steps were already taken.
        """
        if self.engine.step:
            raise ConfigError(f"a replay log starts at step 0, this run is at step {self.engine.step}.")
        if self.engine.placement == "inplace":
            warnings.warn(
                "placement 'inplace' restores weights only up to rounding, so this run's log does not replay to the "
                "same bits.",
                ZoftWarning,
                stacklevel=2,
            )
        header = {**make_header(self.engine), **self._description}
        self._run_log.create(path, header)
        self._begin_spending(0)

    def resume_log(self, path: str | os.PathLike[str]) -> int:
        """Go on with an interrupted run's log.

        Steps that the log holds beyond the present one are repeated from it, without evaluating anything:
        the training loop only passes over their batches.

        Returns:
            The number of steps in the log.

        Raises:
            ReplayError: If the log is of another run (other base weights, parameters, groups or settings), or
                another process is writing it.
        """
        header, intents = self._run_log.reopen(path)
        records = self._run_log.records
        if len(records) < self.engine.step:
            raise ReplayError(
                f"the log at {Path(path)} ends at step {len(records)}, before this checkpoint's step "
                f"{self.engine.step}."
            )
        settings = {"privacy": None, **self._description}
        if self.privacy is not None and "privacy" in header:
            settings["privacy"] = self.privacy.going_on(header["privacy"])
        check_settings(path, header, settings)
        if self.engine.step == 0:
            check_base(self.engine.model, header["base"])
        if self.last_record is not None:
            check_last_step(path, self.last_record, records)
        self._begin_spending(intents)
        return len(records)

    def _begin_spending(self, intents: int) -> None:
        if self.privacy is not None:
            self.privacy.begin(self._run_log.log, intents=intents, records=self._run_log.records)

    @property
    def _description(self) -> dict[str, Any]:
        """What the log's header says of the run's settings, which must not change while it goes on."""
        described = describe(self.engine)
        return described if self.privacy is None else {**described, "privacy": self.privacy.plan.to_dict()}

    @property
    def log(self) -> ReplayLog | None:
        """The run's replay log, if it keeps one."""
        return self._run_log.log

    @property
    def recorded(self) -> StepRecord | None:
        """The present step's record, if an interrupted run logged it; it is then repeated, not evaluated."""
        return self._run_log.at(self.engine.step)

    def flush_log(self) -> None:
        """Bring the replay log to the disk itself; without this it survives the process, not a power cut."""
        self._run_log.flush()

    def close_log(self) -> None:
        """Flush the replay log to the disk and let other processes write it."""
        self._run_log.close()

    def state_dict(self) -> dict[str, Any]:
        """Torch's state and, under ``"zo"``, the engine's."""
        state = super().state_dict()
        state["zo"] = {
            **self.engine.state_dict(),
            "step_size": self.step_size.state_dict(),
            "last_record": None if self.last_record is None else astuple(self.last_record),
            "charged": 0 if self.privacy is None else self.privacy.charged,
        }
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        if "zo" not in state_dict:
            raise ConfigError("this optimizer state was not saved by ZOOptimizer (it has no 'zo' entry).")
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "zo"})
        self.engine.load_state_dict(state_dict["zo"])
        self._gathering.forget()
        if self.privacy is not None:
            self.privacy.charged = state_dict["zo"]["charged"]
        self.step_size.load_state_dict(state_dict["zo"]["step_size"])
        last = state_dict["zo"]["last_record"]
        self.last_record = None if last is None else StepRecord(*last)
