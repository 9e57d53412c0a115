"""Trainers with a promise of privacy: by the mixin, by the callback, by TRL."""

from __future__ import annotations

import random
import re
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

both_ways = pytest.mark.parametrize("kind", KINDS)
# What the callback lends is the mixin's own, so once is enough but for the slow tier.
mixin_first = pytest.mark.parametrize("kind", ["mixin", pytest.param("callback", marks=pytest.mark.slow)])


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


@mixin_first
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
    trainer = private_trainer(tmp_path, cls=Watching, train=data, remove_unused_columns=False, max_steps=3)
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


# --- what a run leaves and says -------------------------------------------------------------------------


@both_ways
def test_logs_hold_epsilon_which_grows_and_nothing_of_the_data(kind: str, tmp_path: Path) -> None:
    said = Said()
    trainer = private_trainer(tmp_path, kind=kind, callbacks=[said])
    output = trainer.train()
    public = {"learning_rate", "projected_grad", "epsilon", "epoch", "step"}
    for logs in (said.logs, trainer.state.log_history):
        assert len(logs) == 7 and set().union(*logs) <= public
    epsilons = [logs["epsilon"] for logs in said.logs[:-1]]
    spent = spending_of(trainer)
    assert epsilons == [round(spent.plan.epsilon(steps), 4) for steps in range(1, 7)] == sorted(set(epsilons))
    assert np.isnan(output.training_loss) and set(output.metrics) <= public
    log = ReplayLog.open(tmp_path / "zo_log")
    assert log.intents == len(log.records) == 6 and all(np.isnan(record.loss) for record in log.records)
    assert digest(trainer.model) == replayed(tmp_path)


def test_the_bar_shows_epsilon(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("TQDM_DISABLE")
    trainer = private_trainer(tmp_path, disable_tqdm=False, max_steps=2)
    trainer.train()
    assert f"epsilon={spending_of(trainer).epsilon:.3f}" in capsys.readouterr().err


@mixin_first
def test_one_examples_nan_neither_stops_nor_poisons_the_run(
    kind: str, no_noise: Noise, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Bad(Watching):
        def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            return loss * float("nan") if inputs["input_ids"].shape[1] < 6 else loss

    trainer = private_trainer(tmp_path, kind=kind, cls=Bad, per_device_train_batch_size=16, max_steps=2)
    trainer.train()
    assert len(set(trainer.seen)) == 16, "with a sampling rate of one"
    sums = [value for total in no_noise.sums for value in total]
    assert np.isfinite(sums).all() and all(sums)
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_steps_and_epochs_are_as_planned_whatever_batches_come(accumulate: int, tmp_path: Path) -> None:
    """At an expected batch of two, every eighth one is empty."""
    per_device = 2 // accumulate
    trainer = private_trainer(
        tmp_path,
        max_steps=-1,
        num_train_epochs=2,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulate,
    )
    trainer.train()
    log, plan = ReplayLog.open(tmp_path / "zo_log"), spending_of(trainer).plan
    assert trainer.state.global_step == plan.steps == len(log.records) == log.intents == 16
    assert (plan.expected_batch_size, plan.num_examples) == (2, 16)


def test_accumulated_micro_batches_are_one_release(no_noise: Noise, tmp_path: Path) -> None:
    sums = []
    for accumulate in (1, 4):
        private_trainer(
            tmp_path / str(accumulate),
            per_device_train_batch_size=16 // accumulate,
            gradient_accumulation_steps=accumulate,
            max_steps=1,
        ).train()
        sums.append(no_noise.sums[-1])
    assert len(no_noise.sums) == 2 and sums[0] == sums[1], "exactly: the sum is of integers"


@mixin_first
def test_a_second_train_goes_on_spending(kind: str, tmp_path: Path) -> None:
    config = promise(dp_noise_multiplier=None, dp_target_epsilon=3.0)
    trainer = private_trainer(tmp_path, config, kind=kind)
    trainer.train()
    first = spending_of(trainer).epsilon
    assert 2.9 < first <= 3.0
    with pytest.raises(PrivacyBudgetError, match=r"the budget is spent"):
        trainer.train()
    assert first <= spending_of(trainer).epsilon <= 3.0


def test_a_second_train_on_other_batches_is_refused(tmp_path: Path) -> None:
    trainer = private_trainer(tmp_path, max_steps=1)
    trainer.train()
    trainer.args.per_device_train_batch_size = 8
    with pytest.raises(ConfigError, match=r"planned for 4 of 16 examples a step, and would now sample 8 of 16"):
        trainer.train()
    trainer.args.per_device_train_batch_size = 4
    trainer.train_dataset = uneven_rows(8)
    with pytest.raises(ConfigError, match=r"would now sample 4 of 8"):
        trainer.train()


# --- models ---------------------------------------------------------------------------------------------


def _lora() -> nn.Module:
    from tests.hf.test_trl import lora

    return lora()


MODELS: dict[str, Callable[[], nn.Module]] = {
    "bf16": lambda: make("llama", torch.bfloat16)[0],
    "tied weights": lambda: make("gpt2")[0],
    "LoRA": _lora,
}


@pytest.mark.parametrize("new", MODELS.values(), ids=MODELS.keys())
def test_other_models_train_and_replay(new: Callable[[], nn.Module], tmp_path: Path) -> None:
    model, before = new(), digest(new())
    trainer = private_trainer(tmp_path, model=model, zo=zoft.ZOConfig(method="mezo", zo_eps=1e-2), max_steps=3)
    trainer.train()
    assert digest(model) != before
    assert digest(model) == replayed(tmp_path, new())


# --- refusals -------------------------------------------------------------------------------------------


class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter(uneven_rows())


class StreamWithLength(Stream):
    def __len__(self) -> int:
        return 16


class Masking(DataCollatorForLanguageModeling):  # type: ignore[misc]
    def __init__(self) -> None:
        self.mlm = True


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)


EVALUATION = {"evaluation": uneven_rows(4)}
CHECKPOINTS = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
MEASURING: dict[str, dict[str, Any]] = {
    "eval_strategy": {"eval_strategy": "steps", "eval_steps": 2, **EVALUATION},
    "eval_on_start": {"eval_on_start": True, **EVALUATION},
    "save_strategy='best'": {"save_strategy": "best", "metric_for_best_model": "loss", **EVALUATION},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    **{name: (changes, rf"{name} measures the evaluation data exactly") for name, changes in MEASURING.items()},
    "load_best_model_at_end": (
        {**CHECKPOINTS, "load_best_model_at_end": True, **EVALUATION},
        r"eval_strategy measures the evaluation data exactly, or chooses by such measurements",
    ),
    "auto_find_batch_size": ({"auto_find_batch_size": True}, r"auto_find_batch_size changes the sampling rate"),
    "report_to": ({"report_to": "tensorboard"}, r"report_to=tensorboard keeps the time of each entry"),
    "token counts": ({"include_num_input_tokens_seen": "all"}, r"include_num_input_tokens_seen logs the exact lengths"),
    "masked tokens": ({"collate": Masking()}, r"Masking masks tokens at random"),
    "a stream": ({"train": Stream()}, r"must have a length and an order; got a Stream"),
    "a stream with a length": ({"train": StreamWithLength()}, r"must have a length and an order"),
    "torch_compile": ({"torch_compile": True, "torch_compile_backend": "eager"}, r"torch_compile chooses kernels"),
    "zo_lr": ({"zo": zoft.ZOConfig(method="mezo", zo_lr="auto")}, r"zo_lr='auto' measures losses"),
    "a method": ({"zo": zoft.ZOConfig(method="hizoo")}, r"method 'hizoo' .* cannot be private"),
    "placement": ({"zo": zoft.ZOConfig(method="mezo", placement="stream")}, r"placement='stream' cannot be private"),
}


@both_ways
@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_less_than_private_is_refused(case: tuple[dict[str, Any], str], kind: str, tmp_path: Path) -> None:
    changes, says = case
    with pytest.raises(ConfigError, match=says):
        private_trainer(tmp_path, kind=kind, **changes)


def test_anything_but_a_privacy_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"privacy must be a PrivacyConfig, got \{'dp_target_epsilon': 1\}"):
        private_trainer(tmp_path, {"dp_target_epsilon": 1})  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", MEASURING.values(), ids=MEASURING.keys())
def test_public_evaluation_data_may_be_measured(changes: dict[str, Any], tmp_path: Path) -> None:
    trainer = private_trainer(tmp_path, promise(dp_eval_is_public=True), max_steps=2, **changes)
    if changes.get("save_strategy") == "best":
        return
    trainer.train()
    shown = set().union(*trainer.state.log_history)
    assert "eval_loss" in shown and not {"loss", "train_loss", "train_runtime"} & shown


@pytest.mark.parametrize("public", [True, False])
def test_evaluate_measures_public_data_only(public: bool, tmp_path: Path) -> None:
    trainer = private_trainer(tmp_path, promise(dp_eval_is_public=public), max_steps=2, **EVALUATION)
    trainer.train()
    if public:
        assert np.isfinite(trainer.evaluate()["eval_loss"])
    else:
        with pytest.raises(ConfigError, match=r"evaluate\(\) publishes exact scores.*dp_eval_is_public=True"):
            trainer.evaluate()


def test_no_rows_and_too_few_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train_dataset has no rows"):
        private_trainer(tmp_path, train=[]).train()
    with pytest.raises(ConfigError, match=r"between 1 and the number of examples, 16; got 17.*per_device_train_batch"):
        private_trainer(tmp_path, per_device_train_batch_size=17).train()


# --- interruptions --------------------------------------------------------------------------------------


class Interrupt(TrainerCallback):  # type: ignore[misc]
    """Ctrl-C in the middle of a step's evaluations."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            optimizer = kwargs["optimizer"].optimizer  # behind Accelerate's

            def estimates(*_: Any) -> Any:
                raise KeyboardInterrupt

            optimizer.engine.estimates = estimates


@pytest.mark.parametrize("checkpoints", ["full", "log", pytest.param("none", marks=pytest.mark.slow)])
@mixin_first
def test_a_run_resumes_from_what_is_older_than_its_log(kind: str, checkpoints: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"kind": kind, "lr_scheduler_type": "constant"}
    if checkpoints != "none":
        options |= {"save_strategy": "steps", "save_steps": 2, "zo_checkpoints": checkpoints}
    trainer = private_trainer(tmp_path, callbacks=[Interrupt(3)], **options)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    before, first = spending_of(trainer).epsilon, ReplayLog.open(tmp_path / "zo_log")
    assert (first.intents, len(first.records)) == (4, 3)
    again = private_trainer(tmp_path, callbacks=[], cls=Watching, **options)
    again.train(resume_from_checkpoint=True)
    log = ReplayLog.open(tmp_path / "zo_log")
    assert (log.intents, len(log.records)) == (7, 6)
    assert [record.scalars for record in log.records[:3]] == [record.scalars for record in first.records]
    epsilons = [entry["epsilon"] for entry in again.state.log_history if "epsilon" in entry]
    assert epsilons == sorted(epsilons) and spending_of(again).epsilon > before
    assert spending_of(again).epsilon == spending_of(again).plan.epsilon(7)
    assert digest(again.model) == replayed(tmp_path)


@pytest.mark.slow
def test_an_earlier_copy_of_the_log_is_refused_by_a_checkpoint(tmp_path: Path) -> None:
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1}
    trainer = private_trainer(tmp_path, callbacks=[Interrupt(2)], **options)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    earlier = (tmp_path / "zo_log").read_bytes()
    private_trainer(tmp_path, max_steps=4, **options).train(resume_from_checkpoint=True)
    (tmp_path / "zo_log").write_bytes(earlier)
    with pytest.raises(ReplayError, match=r"ends at step 2, before this checkpoint's step 4"):
        private_trainer(tmp_path, **options).train(resume_from_checkpoint=True)


@pytest.mark.slow
def test_a_spent_budget_ends_the_run_with_a_line_and_so_does_resuming_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = promise(dp_noise_multiplier=None, dp_target_epsilon=3.0)
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1}
    trainer = private_trainer(tmp_path, config, callbacks=[Interrupt(3)], **options)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer = private_trainer(tmp_path, config, **options)
    trainer.train(resume_from_checkpoint=True)
    says = r"privacy: stopped after 5 of 6 steps: 6 charges cost epsilon 2.9.* at delta 1e-05, and another"
    assert re.search(says, capsys.readouterr().out)
    assert trainer.state.global_step == 5 and 2.9 < spending_of(trainer).epsilon <= 3.0
    assert [entry["epsilon"] for entry in trainer.state.log_history if "epsilon" in entry][-1] <= 3.0
    again = private_trainer(tmp_path, config, **options)
    again.train(resume_from_checkpoint=True)
    assert re.search(says, capsys.readouterr().out)
    assert digest(again.model) == digest(trainer.model) == replayed(tmp_path)


# --- measuring the clip threshold -----------------------------------------------------------------------


def test_the_measured_threshold_is_near_the_quantile_and_weights_wait(tmp_path: Path) -> None:
    """Also if the run is interrupted while it measures."""
    config = promise(dp_clip_threshold=None, dp_clip_quantile=0.5, dp_clip_steps=20, dp_noise_multiplier=0.3)
    options: dict[str, Any] = {
        "max_steps": 22,
        "per_device_train_batch_size": 12,
        "train": uneven_rows(24),
        "lr_scheduler_type": "constant",
    }
    base = digest(make("llama")[0])
    trainer = private_trainer(tmp_path, config, callbacks=[Interrupt(9)], **options)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert digest(trainer.model) == base
    halfway = spending_of(trainer).clip_threshold
    again = private_trainer(tmp_path, config, **options)
    again.train(resume_from_checkpoint=True)
    log, spent = ReplayLog.open(tmp_path / "zo_log"), spending_of(again)
    assert [record.skipped for record in log.records] == [True] * 20 + [False] * 2 and log.intents == 23
    assert all(record.scalars[1] == 0.0 for record in log.records[:20]), "one number is released, not two"
    assert spent.clip_threshold != halfway and digest(again.model) == replayed(tmp_path) != base

    model = make("llama")[0]
    opt = zoft.ZOOptimizer(model, 0.0, zoft.ZOConfig(method="mezo", zo_eps=1e-2, num_queries=2, placement="snapshot"))
    norms = []
    for step in range(8):
        opt.engine.step = step
        losses = [
            lambda row=row: model(input_ids=row["input_ids"][None], labels=row["labels"][None]).loss
            for row in uneven_rows(24)
        ]
        norms += [float(np.hypot(*estimate.scalars)) for estimate in opt.engine.estimates(losses)]
    within = float(np.mean(np.array(norms) <= spent.clip_threshold))
    assert 0.15 < within < 0.85, f"{within:.0%} within, the half was asked for"
