"""Trainers with a promise of privacy: by the mixin, by the callback, by TRL."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import DataCollatorForLanguageModeling, Trainer, TrainerCallback

import zoft
from tests.core.conftest import make
from tests.core.runs import digest
from tests.privacy.runs import Noise, promise
from tests.privacy.training import KINDS, padded, private_trainer, uneven_rows
from zoft.errors import ConfigError, DataError, PrivacyBudgetError, ReplayError
from zoft.log_file import ReplayLog
from zoft.privacy.plan import PrivacyPlan

both_ways = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")


def replayed(folder: Path, model: nn.Module | None = None) -> str:
    base = make("llama")[0] if model is None else model
    zoft.replay(base, folder / "zo_log")
    return digest(base)


def spending_of(trainer: Any) -> Any:
    return trainer._zo_optimizer.privacy


class Said(TrainerCallback):  # type: ignore[misc]
    """What callbacks are told."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append(dict(logs))


# --- what each example is evaluated on ------------------------------------------------------------------


AS_THEY_ARE = {tuple(row["input_ids"].tolist()) for row in uneven_rows()}


class Watching(Trainer):  # type: ignore[misc]
    """Notes the batches that it is asked for the loss of."""

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        vars(self).setdefault("seen", []).extend(map(tuple, inputs["input_ids"].tolist()))
        vars(self).setdefault("sizes", set()).add(len(inputs["input_ids"]))
        return super().compute_loss(model, inputs, *args, **kwargs)


@both_ways
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_each_example_is_collated_and_evaluated_alone(kind: str, workers: int, tmp_path: Path) -> None:
    trainer = private_trainer(tmp_path, kind=kind, cls=Watching, dataloader_num_workers=workers)
    trainer.train()
    assert trainer.sizes == {1} and set(trainer.seen) <= AS_THEY_ARE, "nothing is padded to its neighbours"
    assert len(trainer.seen) % 4 == 0, "two directions, both signs"
    assert digest(trainer.model) == replayed(tmp_path)


def test_a_data_set_that_transforms_several_rows_at_once_sees_one_at_a_time(tmp_path: Path) -> None:
    """``Dataset.with_transform`` is where people tokenise on the fly, padding to the longest."""

    def transform(columns: dict[str, list[Any]]) -> dict[str, Any]:
        rows = [{"input_ids": torch.tensor(ids), "labels": torch.tensor(ids)} for ids in columns["ids"]]
        return padded([{**row, "attention_mask": torch.ones_like(row["input_ids"])} for row in rows])

    data = Dataset.from_dict({"ids": [row["input_ids"].tolist() for row in uneven_rows()]}).with_transform(transform)
    trainer = private_trainer(tmp_path, cls=Watching, train=data, remove_unused_columns=False)
    trainer.train()
    assert trainer.seen and set(trainer.seen) <= AS_THEY_ARE


DRAWS: dict[str, Callable[[], Any]] = {
    "torch": lambda: torch.rand(1),
    "numpy": lambda: np.random.rand(),
    "random": lambda: random.random(),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
@pytest.mark.parametrize("where", ["data set", "collator", "loss"])
def test_random_numbers_that_examples_share_are_refused(where: str, draw: Any, tmp_path: Path) -> None:
    """They are a stream: what one example draws depends on how many drew before it."""

    class Rows(list[Any]):
        def __getitem__(self, number: Any) -> Any:
            draw()
            return super().__getitem__(number)

    def collate(rows: Any) -> Any:
        draw()
        return padded(rows)

    class Loss(Trainer):  # type: ignore[misc]
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            draw()
            return super().compute_loss(*args, **kwargs)

    changes = {"data set": {"train": Rows(uneven_rows())}, "collator": {"collate": collate}, "loss": {"cls": Loss}}
    trainer = private_trainer(tmp_path, **changes[where])
    who = "the loss" if where == "loss" else "train_dataset or data_collator"
    with pytest.raises(ConfigError, match=rf"{who} drew random numbers \(.*\), and examples"):
        trainer.train()
    assert len(ReplayLog.open(tmp_path / "zo_log").records) < 6, "at most those of empty batches"
