"""A tiny Llama, rows with uneven labels, and trainers over them."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

import zoft
from tests.core.conftest import VOCABULARY, make

Row = dict[str, torch.Tensor]


@pytest.fixture(scope="session", autouse=True)
def _imports_are_no_garbage() -> None:
    """Trainer collects garbage whenever it starts, and would look through all that was ever imported each time."""
    gc.collect()
    gc.freeze()


def rows(count: int = 32, length: int = 8, seed: int = 0) -> list[Row]:
    """Rows of one length, of which some tokens carry no loss."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (count, length), generator=generator)
    labels = ids.clone()
    labels[torch.rand(count, length, generator=generator) < 0.4] = -100
    labels[:, -1] = ids[:, -1]
    return [
        {"input_ids": i, "labels": t, "attention_mask": torch.ones_like(i)} for i, t in zip(ids, labels, strict=True)
    ]


def arguments(output_dir: Path, kind: Any = TrainingArguments, **changes: Any) -> Any:
    options: dict[str, Any] = {
        "output_dir": str(output_dir),
        "max_steps": 8,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return kind(**{**options, **changes})


def trainer_of(
    output_dir: Path,
    *,
    model: nn.Module | None = None,
    dtype: torch.dtype = torch.float32,
    zo: zoft.ZOConfig | None = None,
    train: list[Row] | None = None,
    evaluation: list[Row] | None = None,
    callbacks: Any = None,
    cls: Any = zoft.ZOTrainer,
    zo_checkpoints: str | None = None,
    zo_snapshot_steps: int | None = None,
    **changes: Any,
) -> Any:
    checkpoints: dict[str, Any] = {"zo_checkpoints": zo_checkpoints, "zo_snapshot_steps": zo_snapshot_steps}
    return cls(
        model=make("llama", dtype)[0] if model is None else model,
        args=arguments(output_dir, **changes),
        zo=zo or zoft.ZOConfig(method="mezo", zo_eps=1e-2, num_queries=2),
        train_dataset=rows() if train is None else train,
        eval_dataset=evaluation,
        callbacks=callbacks,
        **{name: value for name, value in checkpoints.items() if value is not None},
    )


def with_callback(cls: type[Trainer] = Trainer) -> Any:
    """What makes a Trainer for :func:`trainer_of` with a ``ZOCallback`` in place of ``zo=``."""

    def made(*, zo: zoft.ZOConfig, callbacks: Any = None, **options: Any) -> Trainer:
        ours = {name: options.pop(name) for name in ("zo_checkpoints", "zo_snapshot_steps") if name in options}
        return cls(callbacks=[zoft.ZOCallback(zo, **ours), *(callbacks or [])], **options)

    return made
