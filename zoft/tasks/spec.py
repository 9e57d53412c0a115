"""A task with where its rows come from: what a name of the library stands for, or a file of one's own."""

from __future__ import annotations

from dataclasses import dataclass

from zoft.tasks.data import Prepare
from zoft.tasks.task import Task

__all__ = ["TaskSpec"]


@dataclass(frozen=True)
class TaskSpec:
    """A task and its rows.

    Attributes:
        task: How a row becomes a prompt, and what may follow it.
        dataset: Where the rows are, as ``zoft-train --dataset`` names it.
        dataset_config_name: The Hub data set's configuration.
        eval_file: Where the rows to measure on are, if elsewhere.
        eval_split: The Hub data set's split to measure on; default: ``validation``, else ``test``.
        prepare: Makes the columns that the task reads; default: they are the data's own.
        sfc_template: What a prompt says of the task alone, without the row that is asked about: what ``zoft-eval
            --sfc`` calibrates by. Default: the task's template, its columns left out.
        max_train_samples: How many rows are trained on, unless said otherwise; None: all.
        max_dev_samples: How many are taken from those for choosing the checkpoint.
        max_eval_samples: How many are measured on.
    """

    task: Task
    dataset: str | None = None
    dataset_config_name: str | None = None
    eval_file: str | None = None
    eval_split: str | None = None
    prepare: Prepare | None = None
    sfc_template: str | None = None
    max_train_samples: int | None = None
    max_dev_samples: int | None = None
    max_eval_samples: int | None = None
