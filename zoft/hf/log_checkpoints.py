"""Checkpoints of kilobytes: everything that Trainer goes on from, and the replay log in place of the weights.

Saving and rotating stay Trainer's. A checkpoint's weights are left out, and rebuilt when they are asked for:
base weights, or the newest snapshot before it, plus the log's steps. Snapshots are folders of their own
(``zo_snapshot-N``), which Trainer's rotation does not know and so cannot remove.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from zoft.errors import ConfigError, ReplayError
from zoft.hf.checkpoints import (
    NOTE,
    OPTIMIZER,
    SNAPSHOT,
    SavedState,
    begin_log_only,
    drop_unneeded_snapshots,
    is_log_only,
    newest_start,
    read_log_only,
    save_snapshot,
    starts_in,
)
from zoft.log_file import LOG_NAME, ReplayLog
from zoft.optim import ZOOptimizer
from zoft.replay_log import check_base, engine_of, roll_forward
from zoft.types import ZOConfig

KINDS = ("full", "log")


class LogCheckpoints:
    """What :class:`zoft.hf.trainer.ZOTrainerMixin` does about checkpoints; put before a Trainer class."""

    args: TrainingArguments
    model: nn.Module
    accelerator: Any
    state: Any
    is_fsdp_enabled: bool
    is_deepspeed_enabled: bool
    _zo_optimizer: ZOOptimizer | None

    def _choose_checkpoints(self, kind: str, snapshot_steps: int | None, config: ZOConfig) -> None:
        _refuse(kind, snapshot_steps, self.args, config)
        if kind == "log" and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ConfigError(
                "zo_checkpoints='log' does not go with FSDP or DeepSpeed, which save models in their own formats. Use "
                "zo_checkpoints='full'."
            )
        self._kind = kind
        self._snapshot_steps = snapshot_steps
        self._snapshot_at: int | None = None  # the newest one's step
        self._leave_weights_out = False

    # --- writing ----------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        assert self._zo_optimizer is not None
        self._zo_optimizer.flush_log()  # or a power cut could leave a checkpoint that is ahead of its log
        folder = Path(self._get_output_dir(trial=trial))  # type: ignore[attr-defined]
        if self._kind == "full":
            (folder / f"checkpoint-{self.state.global_step}" / NOTE).unlink(missing_ok=True)
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            return
        if self._snapshot_is_due(self._zo_optimizer.engine.step):
            self._save_snapshot(folder, self._zo_optimizer)
        self._leave_weights_out = True
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
        finally:
            self._leave_weights_out = False
        if self.args.should_save and self.args.save_total_limit is not None:
            drop_unneeded_snapshots(folder, ReplayLog.open(self._log_path))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model; for a log-only checkpoint, what else Trainer saves beside it."""
        if not self._leave_weights_out:
            super().save_model(output_dir, _internal_call)  # type: ignore[misc]
            return
        if self.args.should_save:
            begin_log_only(Path(str(output_dir)))
            torch.save(self.args, os.path.join(str(output_dir), "training_args.bin"))
        self.accelerator.wait_for_everyone()  # or what other processes save there could come first, and be removed

    def _snapshot_is_due(self, step: int) -> bool:
        if self._snapshot_steps is None:
            return False
        # The best checkpoint is loaded when the base weights are no longer in memory, so it needs a snapshot.
        first = self._snapshot_at is None and self.args.load_best_model_at_end
        return first or step - (self._snapshot_at or 0) >= self._snapshot_steps

    def _save_snapshot(self, folder: Path, optimizer: ZOOptimizer) -> None:
        self._snapshot_at = optimizer.engine.step

        def write(draft: Path) -> None:
            super(LogCheckpoints, self).save_model(str(draft), _internal_call=True)  # type: ignore[misc]
            torch.save(optimizer.state_dict(), draft / OPTIMIZER)

        if self.args.should_save:
            save_snapshot(folder / f"{SNAPSHOT}-{self._snapshot_at}", write)

    # --- reading ----------------------------------------------------------------------------------------

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        checkpoint = Path(resume_from_checkpoint)
        if is_log_only(checkpoint):
            self._rebuild(checkpoint, model)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            saved = SavedState.read(checkpoint) if self._kind == "log" else None
            self._snapshot_at = None if saved is None else saved.step

    def _load_best_model(self) -> None:
        best = Path(self.state.best_model_checkpoint)
        if is_log_only(best):
            self._rebuild(best, None)
        else:
            super()._load_best_model()  # type: ignore[misc]

    def _rebuild(self, checkpoint: Path, model: nn.Module | None) -> None:
        """Give the model the weights that it had at a log-only checkpoint."""
        log = ReplayLog.open(self._log_of(checkpoint))
        state = read_log_only(checkpoint, log)
        start = newest_start(starts_in(checkpoint.parent, log), state.step)
        target = self.model if model is None else model
        if start is None:
            try:
                check_base(target, log.header["base"])
            except ReplayError as error:
                raise ReplayError(
                    f"{checkpoint} holds no weights and has no snapshot before it, so the model must hold the base "
                    f"weights, as at the start of the run. {error}"
                ) from None
        else:
            super()._load_from_checkpoint(str(start.folder), model)  # type: ignore[misc]
        engine = engine_of(target, log.header)
        if start is not None:
            engine.load_state_dict(start.engine)
        roll_forward(engine, log.records[: state.step], progress=not self.args.disable_tqdm)
        self._snapshot_at = None if start is None else start.step

    @property
    def _log_path(self) -> Path:
        return Path(str(self.args.output_dir), LOG_NAME)

    def _log_of(self, checkpoint: Path) -> Path:
        """Return where the log of a checkpoint is: in output_dir, or beside the checkpoint."""
        for path in (self._log_path, checkpoint.parent / LOG_NAME):
            if path.exists():
                return path
        raise ReplayError(
            f"resuming from {checkpoint} needs the run's replay log; there is none at {self._log_path} or "
            f"{checkpoint.parent / LOG_NAME}."
        )

    def _bring_log(self, checkpoint: Path) -> None:
        """Copy a checkpoint's log into output_dir, if there is none: a run goes on in a folder of its own."""
        source, path = self._log_of(checkpoint), self._log_path
        if source != path:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f"{path.name}.new")
            shutil.copyfile(source, draft)
            os.replace(draft, path)


def _refuse(kind: str, snapshot_steps: int | None, args: TrainingArguments, config: ZOConfig) -> None:
    if kind not in KINDS:
        raise ConfigError(f"zo_checkpoints must be one of {', '.join(KINDS)}, got {kind!r}.")
    if snapshot_steps is not None and snapshot_steps < 1:
        raise ConfigError(f"zo_snapshot_steps must be an integer >= 1, got {snapshot_steps}.")
    if kind == "full":
        if snapshot_steps is not None:
            raise ConfigError(
                f"zo_snapshot_steps={snapshot_steps} goes with zo_checkpoints='log'; with 'full' every checkpoint "
                "holds the weights. Leave one of them out."
            )
        return
    if args.save_only_model:
        raise ConfigError("save_only_model=True saves what zo_checkpoints='log' leaves out. Choose one of them.")
    if config.placement == "inplace":
        raise ConfigError(
            "zo_checkpoints='log' rebuilds weights from the log, but a run with placement='inplace' does not replay to "
            "the same bits. Use placement='stream' or 'snapshot', or zo_checkpoints='full'."
        )
    if args.load_best_model_at_end and snapshot_steps is None:
        raise ConfigError(
            "load_best_model_at_end=True with zo_checkpoints='log' must go back to weights that are no longer in "
            "memory. Set zo_snapshot_steps (the first checkpoint then comes with a snapshot), or zo_checkpoints='full'."
        )
