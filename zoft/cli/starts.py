"""Where a run starts from, where that is not what a checkpoint holds: a fresh adapter, or a probed last layer.

Making such a start takes arithmetic whose last bits depend on the machine and on the number of threads. A run
therefore keeps it in a folder beside its log, and resuming and replaying read it from there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoft.cli.arguments.adapter import AdapterArguments
from zoft.cli.arguments.run import RunArguments
from zoft.cli.config import ParsedArguments
from zoft.log_file import LOG_NAME, free_name

if TYPE_CHECKING:
    from zoft.problems.problem import Problem

__all__ = ["Start", "begin", "start_of"]


@dataclass(frozen=True)
class Start:
    """A kind of start.

    Attributes:
        name: What its folder is called.
        save: Writes what of a model it consists of, given the names of the parameters, into a folder.
        load: Gives it back to a model.
    """

    name: str
    save: Callable[[Any, Path, Sequence[str]], None]
    load: Callable[[Any, Path], None]

    def folder(self, log: Path) -> Path:
        """Return where the start of the run that writes a log is kept.

        ``zo_log`` has ``adapter_start``; ``zo_log.1``, an earlier run's in the same place, has ``adapter_start.1``.
        """
        return log.with_name(f"{self.name}{log.suffix if log.suffix[1:].isdigit() else ''}")

    def keep(self, model: Any, log: Path, parameters: Sequence[str]) -> None:
        """Write the start, before the first step, beside the log that is about to be made."""
        folder = self.folder(log)
        if folder.exists() and log.exists():
            folder.rename(self.folder(free_name(log)))  # the log will make way in the same manner
        self.save(model, folder, parameters)

    def branch(self, log: Path, branch: Path) -> None:
        """Let a branch of a log start from where the log starts."""
        if self.folder(log).is_dir():
            shutil.copytree(self.folder(log), self.folder(branch))

    def recall(self, model: Any, log: Path) -> None:
        """Give a model the start of the run that wrote the log, where that run kept it."""
        if self.folder(log).is_dir():
            self.load(model, self.folder(log))


def start_of(parsed: ParsedArguments) -> Start | None:
    """Return the kind of start that a recipe's runs keep; None: they start from what their checkpoint holds."""
    if parsed.get(AdapterArguments).use_peft:  # whose modules_to_save a probed layer is one of
        from zoft.cli.adapters import load_adapter, save_adapter  # imports PEFT, which takes seconds

        return Start("adapter_start", lambda model, folder, _: save_adapter(model, folder), load_adapter)
    return Start("head_start", _save, _load) if parsed.get(RunArguments).linear_probe_first else None


def begin(parsed: ParsedArguments, model: Any, problem: Problem, output_dir: Path) -> None:
    """Bring a model to where its run starts from, and keep that; a resumed run starts where it did the first time."""
    from accelerate import PartialState

    start, log = start_of(parsed), output_dir / LOG_NAME
    if start is not None and parsed.get(RunArguments).resume and start.folder(log).is_dir():
        start.recall(model, log)
        return
    written = () if problem.start is None else problem.start(model)
    if start is not None and PartialState().is_main_process:
        start.keep(model, log, written)


_FILE = "head.safetensors"


def _save(model: Any, folder: Path, parameters: Sequence[str]) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: model.get_parameter(name).detach().cpu().contiguous() for name in parameters}, folder / _FILE)


def _load(model: Any, folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    with torch.no_grad():
        for name, values in load_file(folder / _FILE).items():
            model.get_parameter(name).copy_(values)
