"""Checkpoint folders: which are whole, which hold weights, and which of them another one can be rebuilt from."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME as ADAPTER_NAME
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from zoft.errors import ReplayError
from zoft.log_file import ReplayLog
from zoft.replay_diff import differing_fields
from zoft.types import StepRecord

CHECKPOINT, SNAPSHOT = "checkpoint", "zo_snapshot"
OPTIMIZER = "optimizer.pt"
NOTE = "zo_log_only.txt"  # for people who look for the weights
_SUFFIXES, _NOT_WEIGHTS = (".safetensors", ".bin", ".distcp"), ("training_args.bin", "optimizer.bin")


def last_complete_checkpoint(output_dir: str) -> str | None:
    """Return the newest checkpoint folder that a kill did not cut short, or None.

    Trainer writes ``trainer_state.json`` last, so a checkpoint with a readable one is whole. One without the
    optimizer's state (``save_only_model``) cannot be gone on from.
    """
    found = _numbered(Path(output_dir), CHECKPOINT, _is_complete)
    return str(found[-1]) if found else None


@dataclass(frozen=True)
class SavedState:
    """A folder with an optimizer's state.

    Attributes:
        folder: Where it is.
        step: Number of steps taken.
        engine: The engine's state.
        last_record: The last step's record, None before the first.
    """

    folder: Path
    step: int
    engine: dict[str, Any]
    last_record: StepRecord | None

    @classmethod
    def read(cls, folder: Path) -> SavedState | None:
        """Read the state that is saved in a folder; None if it is not a zeroth-order optimizer's."""
        try:
            zo = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True, mmap=True)["zo"]
        except (KeyError, OSError, RuntimeError, pickle.UnpicklingError):
            return None
        last = zo["last_record"]
        return cls(folder, zo["step"], zo, None if last is None else StepRecord(*last))

    def is_of(self, log: ReplayLog) -> bool:
        """Whether the log is that of the run that saved this state."""
        if self.last_record is None:
            return self.step == 0
        return self.step <= len(log.records) and not differing_fields(self.last_record, log.records[self.step - 1])


def is_log_only(checkpoint: Path) -> bool:
    """Whether a checkpoint has no weights of its own, or a kill while it was being removed took them first."""
    files = (path for path in checkpoint.rglob("*") if path.suffix in _SUFFIXES)
    return all(path.name in _NOT_WEIGHTS for path in files)


def begin_log_only(checkpoint: Path) -> None:
    """Begin a checkpoint without weights, in place of what was in the folder."""
    shutil.rmtree(checkpoint, ignore_errors=True)
    checkpoint.mkdir(parents=True)
    (checkpoint / NOTE).write_text(
        "This checkpoint holds no weights. Resuming rebuilds them from the replay log (zo_log) in the folder above,\n"
        "on top of the newest zo_snapshot before this step or of the base model. To write them out: zoft-replay\n"
        "--upto_step and --save_to.\n"
    )


def read_log_only(checkpoint: Path, log: ReplayLog) -> SavedState:
    """Read the state of a checkpoint without weights, whose log this must be.

    Raises:
        ReplayError: If it is another run's log.
    """
    state = SavedState.read(checkpoint)
    if state is None or not state.is_of(log):
        raise ReplayError(
            f"{checkpoint} holds no weights, and the log at {log.path} ({len(log.records)} steps) is not of the run "
            "that saved it. Resume where checkpoint and log belong together."
        )
    return state


def starts_in(folder: Path, log: ReplayLog) -> list[SavedState]:
    """Return the run's states that have weights: snapshots and full checkpoints."""
    whole = [path for path in _numbered(folder, CHECKPOINT, _is_complete) if _holds_all_weights(path)]
    return [state for state in _states([*whole, *_numbered(folder, SNAPSHOT)]) if state.is_of(log)]


def newest_start(starts: Iterable[SavedState], step: int) -> SavedState | None:
    """Return the latest state at or before a step; None: there is only the base."""
    return max((s for s in starts if s.step <= step), key=lambda s: s.step, default=None)


def save_snapshot(folder: Path, write: Callable[[Path], None]) -> None:
    """Make a folder appear whole or not at all, in place of one that is there."""
    draft = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    write(draft)
    _remove(folder)
    os.replace(draft, folder)


def drop_unneeded_snapshots(folder: Path, log: ReplayLog) -> None:
    """Remove this run's snapshots that none of its checkpoints would be rebuilt from. Other runs' are left alone."""
    starts = starts_in(folder, log)
    checkpoints = [state for state in _states(_numbered(folder, CHECKPOINT, _is_complete)) if state.is_of(log)]
    needed = {start.folder for state in checkpoints if (start := newest_start(starts, state.step)) is not None}
    for start in starts:
        if start.folder.name.startswith(SNAPSHOT) and start.folder not in needed:
            _remove(start.folder)
    # What a kill has left of one that was being written or removed.
    for rest in (*folder.glob(f"{SNAPSHOT}-*.new"), *folder.glob(f"{SNAPSHOT}-*.old")):
        shutil.rmtree(rest)


def _remove(folder: Path) -> None:
    """Remove a folder so that no half of it can be taken for the whole."""
    if folder.exists():
        doomed = folder.with_name(f"{folder.name}.old")
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(folder, doomed)
        shutil.rmtree(doomed)


def _states(folders: Iterable[Path]) -> list[SavedState]:
    return [state for state in map(SavedState.read, folders) if state is not None]


def _numbered(folder: Path, prefix: str, usable: Callable[[Path], bool] = Path.is_dir) -> list[Path]:
    """Return the usable folders ``<prefix>-<number>``, by number."""
    pattern = re.compile(rf"{prefix}-(\d+)")
    found = [(int(match[1]), path) for path in folder.glob(f"{prefix}-*") if (match := pattern.fullmatch(path.name))]
    return [path for _, path in sorted(found) if usable(path)]


def _holds_all_weights(folder: Path) -> bool:
    """Whether all weights are in one file, or every file that an index lists is there.

    Other layouts are not started from: Trainer removes checkpoints file by file, so a kill may leave some.
    """
    if any((folder / name).is_file() for name in (SAFE_WEIGHTS_NAME, ADAPTER_NAME)):
        return True
    try:
        listed = json.loads((folder / SAFE_WEIGHTS_INDEX_NAME).read_text())["weight_map"].values()
    except (OSError, ValueError):
        return False
    return all((folder / name).is_file() for name in listed)


def _is_complete(folder: Path) -> bool:
    try:
        json.loads((folder / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    return (folder / OPTIMIZER).is_file()
