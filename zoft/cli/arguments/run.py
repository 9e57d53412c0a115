"""What a run does besides training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from zoft.cli.arguments.tasks import IMAGES, TEXTS

__all__ = ["RunArguments"]


@dataclass
class RunArguments:
    """What this run does besides training."""

    _argument_group_name = "run"

    resume: bool = field(default=False, metadata={"help": "Continue the run in output_dir from where its log ends."})
    zo_checkpoints: Literal["full", "log"] = field(
        default="full",
        metadata={
            "help": "What checkpoints hold: the whole model, or no weights at all (kilobytes): resuming rebuilds them "
            "from the replay log."
        },
    )
    zo_snapshot_steps: int | None = field(
        default=None,
        metadata={
            "help": "With zo_checkpoints log: also save the whole model about every so many steps, which bounds how "
            "much resuming replays; default: never."
        },
    )
    linear_probe_first: bool = field(
        default=False,
        metadata={
            "help": f"With task {IMAGES} or {TEXTS}: before training, make the last layer a logistic regression on "
            "what it reads of the training rows."
        },
    )
    save_model: bool = field(default=True, metadata={"help": "Write the fine-tuned model into output_dir at the end."})
