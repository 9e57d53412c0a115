"""``ZOTrainerMixin``: any ``transformers.Trainer`` trains by forward passes.

The loop stays Trainer's. ``compute_loss`` returns a loss whose backward pass sums scalars (the autograd
seam), so accumulation, schedulers, logging, evaluation and saving are Trainer's own.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import has_length

from zoft.distributed import Replicas
from zoft.engine import ZOEngine
from zoft.errors import ConfigError, DataError, ReplayError
from zoft.hf.checkpoints import last_complete_checkpoint
from zoft.hf.checks import is_compiled, refuse
from zoft.hf.closures import repeatable
from zoft.hf.log_checkpoints import LogCheckpoints
from zoft.hf.meters import StepMeter
from zoft.hf.parallel import declare_offloading, models_stay_bare, share_batches
from zoft.hf.private import EXAMPLES, PrivateTraining, refuse_private
from zoft.hf.unchanged import check_changed
from zoft.hf.zeroth_order_card import ZerothOrderCards
from zoft.log_file import LOG_NAME
from zoft.optim import PrivateSteps, ZOOptimizer
from zoft.privacy import PrivacyConfig
from zoft.step_size import StepSize
from zoft.types import LossFn, ZOConfig


class ZOTrainerMixin(PrivateTraining, LogCheckpoints, ZerothOrderCards):
    """Put before any Trainer class: ``class ZOSFT(ZOTrainerMixin, SFTTrainer): ...``.

    Args:
        zo: The zeroth-order configuration.
        privacy: Makes the run differentially private; see docs/privacy.md.
        zo_checkpoints: ``"full"``: as Trainer saves them. ``"log"``: without the weights, which resuming
            rebuilds from the replay log.
        zo_snapshot_steps: With ``"log"``: save the whole model too, about every so many steps, which bounds how
            far resuming replays. None: never; resuming then needs the base weights.
        *args: The Trainer's own.
        **kwargs: The Trainer's own.

    Raises:
        ConfigError: If the training arguments ask for something that forward-only training cannot do.
    """

    args: TrainingArguments
    model: nn.Module
    accelerator: Any
    control: TrainerControl

    def __init__(
        self,
        *args: Any,
        zo: ZOConfig | None = None,
        privacy: PrivacyConfig | None = None,
        zo_checkpoints: str = "full",
        zo_snapshot_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        self._set_up(ZOConfig.of(zo), PrivacyConfig.of(privacy))
        declare_offloading(kwargs.get("model", args[0] if args else None))
        super().__init__(*args, **kwargs)
        refuse(self, self.zo)
        refuse_private(self, self.zo, self.privacy, self.model)
        self._choose_checkpoints(zo_checkpoints, zo_snapshot_steps, self.zo)
        self.add_callback(LogKeeper(self))  # type: ignore[attr-defined]

    def _set_up(self, zo: ZOConfig, privacy: PrivacyConfig | None) -> None:
        """Set the state of a zeroth-order run."""
        self.zo = zo
        self.privacy = privacy
        self._zo_optimizer: ZOOptimizer | None = None
        self._checkpoint: str | None = None
        self._resume_log = False
        self._resumed_at: int | None = None
        self._meter = StepMeter()

    # --- Trainer's seams --------------------------------------------------------------------------------

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the zeroth-order optimizer. Called by Trainer whenever it starts its loop."""
        if self._resumed_at is not None and self._resumed_at != self.zo_engine.step:
            raise ReplayError(
                f"auto_find_batch_size starts over with a smaller batch at step {self.zo_engine.step} of a run that "
                f"was resumed at step {self._resumed_at}, and the weights of that step are gone. Resume once more, "
                "with a smaller per_device_train_batch_size."
            )
        # With model_init=..., every train() has a model of its own.
        if self._zo_optimizer is None or self._zo_optimizer.engine.model is not self.model:
            zo = self.zo
            if zo.placement == "auto" and is_compiled(self):
                zo = dataclasses.replace(zo, placement="snapshot")
            self._zo_optimizer = ZOOptimizer(
                self.model, self.args.learning_rate, zo, weight_decay=self.args.weight_decay, privacy=self._plan()
            )
        self._check_plan(self._zo_optimizer)
        self.optimizer = self._zo_optimizer
        return self.optimizer

    def get_train_dataloader(self) -> Any:
        """Trainer's, except that ranks which split a step's queries see the same batches.

        Raises:
            DataError: If the training set is empty.
        """
        if has_length(self.train_dataset) and len(self.train_dataset) == 0:  # type: ignore[attr-defined]
            raise DataError("train_dataset has no rows.")
        loader = super().get_train_dataloader()
        return share_batches(loader, Replicas.current(self.zo.query_parallel_size))

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """One micro-batch. Of a step that the log already holds, only the loss is reported, in equal parts."""
        recorded = self._zo_optimizer.recorded if self._zo_optimizer is not None else None
        if recorded is None:
            return super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc,no-any-return]
        parts: int = self.current_gradient_accumulation_steps  # type: ignore[attr-defined]
        return torch.tensor(recorded.loss / parts, device=self.args.device)

    def compute_loss(
        self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """In training: the zeroth-order estimate of the wrapped Trainer's own loss. Elsewhere: that loss."""
        evaluate = super().compute_loss  # type: ignore[misc]
        if return_outputs or not model.training or self._zo_optimizer is None:
            return evaluate(model, dict(inputs), return_outputs=return_outputs, **kwargs)
        self._meter.count_tokens(inputs)

        def closure(batch: Mapping[str, Any]) -> LossFn:
            return repeatable(self, model, batch, lambda inputs: evaluate(model, inputs, **kwargs))

        examples = inputs.get(EXAMPLES)
        return self._zo_optimizer.loss(closure(inputs) if examples is None else [closure(x) for x in examples])

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add what a zeroth-order run is watched by; drop the gradient norm, which does not exist."""
        if "loss" in logs:
            logs.pop("grad_norm", None)
            logs.update(self._meter.read())
            if self._zo_optimizer is not None:
                logs.update(self._zo_optimizer.step_size.figures)
        super().log(logs, *args, **kwargs)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train. Resuming works from the last complete checkpoint, or, without one, from the replay log.

        Args:
            resume_from_checkpoint: As in Trainer. ``True`` also accepts an output directory that holds a
                replay log and no checkpoint: logged steps are then repeated from the log.
            **kwargs: Trainer's own.

        Raises:
            UnchangedError: Steps were taken, and no weight changed by a single bit; the message says why.
        """
        self._resume_log, self._resumed_at = bool(resume_from_checkpoint), None
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(str(self.args.output_dir))
            if resume_from_checkpoint is None and not self._log_path.exists():
                raise ReplayError(
                    f"nothing to resume: {self.args.output_dir} holds neither a complete checkpoint nor a {LOG_NAME}."
                )
        self._checkpoint = resume_from_checkpoint or None
        with models_stay_bare(self.accelerator):
            try:
                result = super().train(resume_from_checkpoint=self._checkpoint, **kwargs)  # type: ignore[misc]
            finally:
                if self._zo_optimizer is not None:
                    self._zo_optimizer.close_log()
            if self._zo_optimizer is not None:
                self._zo_optimizer.check_replicas()
                check_changed(self._zo_optimizer, self.args.learning_rate)
        return self._output(result)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Trainer's, unless the run was finished when it was resumed: Trainer would take one step too many."""
        if self.state.global_step >= self.state.max_steps or self.control.should_training_stop:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)  # type: ignore[misc]

    @property
    def zo_engine(self) -> ZOEngine:
        """The engine of this run; there is one from the start of training on."""
        return self._optimizer_of_run.engine

    @property
    def _optimizer_of_run(self) -> ZOOptimizer:
        if self._zo_optimizer is None:
            raise ConfigError(
                "zo_engine, zo_step_size and zo_spending exist once training has started: call train() first."
            )
        return self._zo_optimizer

    @property
    def zo_spending(self) -> PrivateSteps | None:
        """What this run has spent of its privacy budget, if it is private; known from the start of training on."""
        return self._optimizer_of_run.privacy

    @property
    def zo_step_size(self) -> StepSize:
        """How long this run's steps are; there is one from the start of training on."""
        return self._optimizer_of_run.step_size

    @property
    def zo_forwards(self) -> int:
        """Forwards of micro-batches that this run has cost so far, on each process."""
        engine = self.zo_engine
        forwards = engine.step * engine.method.estimator.forwards + self.zo_step_size.forwards
        return forwards * self.args.gradient_accumulation_steps

    # --- the replay log ---------------------------------------------------------------------------------

    def _open_log(self) -> None:
        assert self._zo_optimizer is not None
        optimizer, path = self._zo_optimizer, self._log_path
        optimizer.zero_grad()  # an interrupted train() may have left micro-batches behind
        if not self._resume_log:
            if optimizer.engine.step == 0:
                optimizer.start_log(path)
            return
        if self._checkpoint is not None:
            checkpoint = Path(self._checkpoint)
            optimizer.replicas.from_first(lambda: self._bring_log(checkpoint))
        if self._checkpoint is None and optimizer.engine.step:
            raise ReplayError(
                f"there is no checkpoint to resume from, and the log at {path} starts from the base weights, which "
                "this model no longer has: load them afresh and make a new trainer."
            )
        optimizer.resume_log(path)
        self._resumed_at = optimizer.engine.step


class LogKeeper(TrainerCallback):
    """Opens the log when weights and optimizer state are in place, and meters the steps; says what was chosen."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._said = ""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the log."""
        self._trainer._open_log()
        self._trainer._meter.start(time.perf_counter())
        spending = self._trainer._zo_optimizer.privacy
        if spending is not None and state.is_world_process_zero:
            tqdm.write(f"privacy: {spending.plan}")
        if self._trainer._resume_log:
            self._stop_if_spent(state, control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop when the privacy budget does not pay for another step."""
        self._stop_if_spent(state, control)

    def _stop_if_spent(self, state: TrainerState, control: TrainerControl) -> None:
        optimizer = self._trainer._zo_optimizer
        spending = optimizer.privacy
        if spending is None or not spending.is_spent or optimizer.recorded is not None:
            return
        if state.global_step < state.max_steps:
            control.should_training_stop = control.should_log = True
            if state.is_world_process_zero:
                tqdm.write(
                    f"privacy: stopped after {state.global_step} of {state.max_steps} steps: {spending}, and another "
                    "would exceed the budget"
                )

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Meter the step."""
        optimizer = self._trainer._zo_optimizer
        if optimizer.step_size.said != self._said:
            self._said = optimizer.step_size.said
            if state.is_world_process_zero:
                tqdm.write(self._said)
        record = optimizer.last_record
        if record is not None and not record.skipped:
            self._trainer._meter.count_step(optimizer.engine.method.estimator.projected_grads(record.scalars))


class ZOTrainer(ZOTrainerMixin, Trainer):  # type: ignore[misc]
    """A ``transformers.Trainer`` that trains by forward passes: ``ZOTrainer(model=..., args=..., zo=ZOConfig())``."""
