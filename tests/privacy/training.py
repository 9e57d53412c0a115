"""Private Trainers over a tiny Llama and rows of uneven length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer

import zoft
from tests.core.conftest import VOCABULARY, make
from tests.hf.conftest import Row, arguments
from tests.privacy.runs import promise
from zoft.privacy import PrivacyConfig

KINDS = ("mixin", "callback")


def uneven_rows(count: int = 16, seed: int = 0) -> list[Row]:
    """Rows of 3 to 8 tokens."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number in range(count):
        ids = torch.randint(3, VOCABULARY, (3 + number % 6,), generator=generator)
        made.append({"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)})
    return made


def padded(rows: list[Row]) -> dict[str, torch.Tensor]:
    """Pads to the longest, as collators do."""
    fill = {"input_ids": 0, "labels": -100, "attention_mask": 0}
    return {
        name: nn.utils.rnn.pad_sequence([row[name] for row in rows], batch_first=True, padding_value=value)
        for name, value in fill.items()
    }


def private_trainer(
    folder: Path,
    privacy: PrivacyConfig | None = None,
    *,
    kind: str = "mixin",
    model: nn.Module | None = None,
    zo: zoft.ZOConfig | None = None,
    train: Any = None,
    evaluation: Any = None,
    callbacks: Any = (),
    cls: type[Trainer] = Trainer,
    collate: Any = padded,
    zo_checkpoints: str = "full",
    **changes: Any,
) -> Any:
    """A Trainer that is private, by either way in; 4 of 16 examples a step, 6 steps."""
    zo = zoft.ZOConfig(method="mezo", zo_eps=1e-2, num_queries=2) if zo is None else zo
    ours = {"privacy": promise() if privacy is None else privacy, "zo_checkpoints": zo_checkpoints}
    options: dict[str, Any] = {
        "model": make("llama")[0] if model is None else model,
        "args": arguments(folder, **{"max_steps": 6, **changes}),
        "train_dataset": uneven_rows() if train is None else train,
        "eval_dataset": evaluation,
        "data_collator": collate,
        "callbacks": list(callbacks),
    }
    if kind == "mixin":
        return type(f"ZO{cls.__name__}", (zoft.ZOTrainerMixin, cls), {})(zo=zo, **ours, **options)
    options["callbacks"].append(zoft.ZOCallback(zo, **ours))
    return cls(**options)
