"""What ``TrainingArguments`` can ask for: it works as users expect, or it is an error before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import GenerationConfig, Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainerCallback

import zoft
from tests.core.conftest import make
from tests.core.runs import digest
from tests.hf.conftest import arguments, rows, trainer_of, with_callback
from tests.hf.test_resume import SAVING, StopAt, cut
from zoft.errors import ConfigError, ReplayError
from zoft.hf.checks import refuse
from zoft.replay_log import ReplayLog

WAYS = pytest.mark.parametrize("cls", [zoft.ZOTrainer, with_callback()], ids=["mixin", "callback"])


def end(folder: Path, **options: Any) -> tuple[str, bytes]:
    trainer = trainer_of(folder, **options)
    trainer.train()
    return digest(trainer.model), (folder / "zo_log").read_bytes()


# --- harmless ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "LoRA"])
def test_activation_checkpointing_changes_nothing(lora: bool, tmp_path: Path) -> None:
    def model() -> nn.Module:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        base, _ = make("llama")
        return get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])) if lora else base

    ends = {end(tmp_path / str(on), model=model(), activation_checkpointing=on) for on in (False, True)}
    assert len(ends) == 1


@WAYS
def test_batches_of_like_length_resume_as_usual(cls: Any, tmp_path: Path) -> None:
    mixed = [row for length in (4, 8, 6) for row in rows(12, length, seed=length)]
    options: dict[str, Any] = {
        "cls": cls,
        "train": mixed,
        "train_sampling_strategy": "group_by_length",
        "per_device_train_batch_size": 1,
        **SAVING,
    }
    want = end(tmp_path, **options)
    cut(tmp_path / "zo_log", 4)
    for step in (6, 8):
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").unlink()
    trainer = trainer_of(tmp_path, **options)
    trainer.train(resume_from_checkpoint=True)
    assert (digest(trainer.model), (tmp_path / "zo_log").read_bytes()) == want


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@WAYS
def test_a_compiled_model_is_trained_alike(cls: Any, backend: str, tmp_path: Path) -> None:
    zo = zoft.ZOConfig(method="mezo", zo_eps=1e-2, placement="snapshot")
    want = end(tmp_path / "plain", zo=zo, max_steps=3)
    trainer = trainer_of(
        tmp_path / "compiled",
        cls=cls,
        zo=zoft.ZOConfig(method="mezo", zo_eps=1e-2),
        max_steps=3,
        torch_compile=True,
        torch_compile_backend=backend,
    )
    trainer.train()
    assert trainer._zo_optimizer.engine.placement == "snapshot"
    assert digest(trainer.model) == want[0]


@WAYS
def test_compiled_stream_is_refused(cls: Any, tmp_path: Path) -> None:
    zo = zoft.ZOConfig(method="mezo", placement="stream")
    with pytest.raises(ConfigError, match="placement='snapshot' or 'auto', or leave torch_compile out"):
        trainer_of(tmp_path, cls=cls, zo=zo, torch_compile=True, torch_compile_backend="eager")
    model, _ = make("llama")
    model.model.layers[0].compile(backend="eager")
    with pytest.raises(ConfigError, match="compiled again and again"):
        trainer_of(tmp_path, cls=cls, zo=zo, model=model)


def test_every_model_of_model_init_is_trained(tmp_path: Path) -> None:
    trainer = zoft.ZOTrainer(
        model_init=lambda: make("llama")[0], args=arguments(tmp_path, max_steps=3), train_dataset=rows()
    )
    ends = []
    for _ in range(2):
        trainer.train()
        ends.append((digest(trainer.model), (tmp_path / "zo_log").read_bytes()))
    assert ends[0] == ends[1]
    assert ends[0][0] != digest(make("llama")[0])


# --- one batch, evaluated several times ----------------------------------------------------------------


class Consuming(Trainer):  # type: ignore[misc]
    """Pops, overwrites and counts, as losses in the wild do."""

    seen = 0
    trained = 0

    def compute_loss(self, model: nn.Module, inputs: Any, **kwargs: Any) -> torch.Tensor:
        labels = inputs.pop("labels")
        inputs["input_ids"] += 1
        self.seen += len(labels)
        self.trained += self.model.training
        return model(**inputs).logits.float().square().mean() * (1 + self.seen)


class ZOConsuming(zoft.ZOTrainerMixin, Consuming):  # type: ignore[misc]
    pass


@pytest.mark.filterwarnings("ignore:no trained weight changed:zoft.ZoftWarning")  # learning_rate=0 is meant
@pytest.mark.parametrize("cls", [ZOConsuming, with_callback(Consuming)], ids=["mixin", "callback"])
@pytest.mark.parametrize("placement", ["stream", "snapshot"])
def test_every_evaluation_starts_from_the_same(placement: str, cls: Any, tmp_path: Path) -> None:
    same = [rows(1)[0]] * 4
    zo = zoft.ZOConfig(method="fzoo", placement=placement)
    trainer = trainer_of(tmp_path, cls=cls, train=same, zo=zo, max_steps=2, learning_rate=0.0)
    trainer.seen = 0
    trainer.trained = 0
    trainer.train()
    model, _ = make("llama")
    with torch.no_grad():
        plain = model.eval()(input_ids=same[0]["input_ids"][None] + 1).logits.square().mean()
    found = [record.loss for record in ReplayLog.open(tmp_path / "zo_log").records]
    assert found == pytest.approx([5 * plain.item(), 9 * plain.item()], rel=1e-5)
    assert (trainer.seen, trainer.trained) == (8, 2), "a batch counts once, as one of training"


def test_the_models_forward_is_in_evaluation_mode(tmp_path: Path) -> None:
    model, _ = make("llama")
    modes: list[bool] = []
    for module in (model, model.model):
        module.register_forward_pre_hook(lambda module, _: modes.append(module.training))
        module.register_forward_hook(lambda module, *_: modes.append(module.training))
    trainer_of(tmp_path, model=model, max_steps=2).train()
    assert modes and not any(modes)
    assert model.training
    assert len(model._forward_pre_hooks) == len(model._forward_hooks) == 1


# --- Seq2SeqTrainer ------------------------------------------------------------------------------------


class ZOSeq2Seq(zoft.ZOTrainerMixin, Seq2SeqTrainer):  # type: ignore[misc]
    pass


@pytest.mark.parametrize("cls", [ZOSeq2Seq, with_callback(Seq2SeqTrainer)], ids=["mixin", "callback"])
def test_seq2seq_trains_generates_and_replays(cls: Any, tmp_path: Path) -> None:
    pairs = [{"input_ids": row["input_ids"], "labels": row["input_ids"][:5]} for row in rows(16)]

    def metrics(prediction: Any) -> dict[str, float]:
        return {"generated": prediction.predictions.shape[1]}

    model, _ = make("t5")
    trainer = cls(
        model=model,
        args=arguments(
            tmp_path,
            kind=Seq2SeqTrainingArguments,
            predict_with_generate=True,
            generation_config=GenerationConfig(max_length=6, min_length=6, decoder_start_token_id=0, pad_token_id=0),
            eval_strategy="steps",
            eval_steps=4,
            max_steps=4,
        ),
        zo=zoft.ZOConfig(method="fzoo"),
        train_dataset=pairs,
        eval_dataset=pairs[:4],
        compute_metrics=metrics,
    )
    trainer.train()
    assert [entry["eval_generated"] for entry in trainer.state.log_history if "eval_loss" in entry] == [6]
    base, _ = make("t5")
    assert zoft.replay(base, tmp_path / "zo_log") == 4
    assert digest(base) == digest(trainer.model) != digest(make("t5")[0])
    # The first loss is a plain forward's: one batch, the weights at the start.
    plain = Trainer(model=make("t5")[0].eval(), args=arguments(tmp_path / "plain"), train_dataset=pairs)
    batch = next(iter(plain.get_train_dataloader()))
    with torch.no_grad():
        loss = plain.compute_loss(plain.model, batch)
    assert ReplayLog.open(tmp_path / "zo_log").records[0].loss == pytest.approx(float(loss), rel=1e-6)


# --- auto_find_batch_size ------------------------------------------------------------------------------


def short_of_memory(rows_that_fit: int, from_call: int = 0) -> nn.Module:
    """A model that, from one call on, takes few rows."""
    model, _ = make("llama")
    forward, calls = model.forward, 0

    def limited(input_ids: torch.Tensor, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > from_call and len(input_ids) > rows_that_fit:
            raise RuntimeError("CUDA out of memory.")
        return forward(input_ids=input_ids, **kwargs)

    model.forward = limited
    return model


@pytest.fixture
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerate.utils.memory.clear_device_cache", lambda garbage_collection=False: None)


@pytest.mark.usefixtures("_fast")
@pytest.mark.parametrize("from_call", [0, 8], ids=["at once", "later"])
@WAYS
def test_a_batch_that_does_not_fit_is_made_smaller(from_call: int, cls: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"zo": zoft.ZOConfig(method="mezo", placement="snapshot"), "remove_unused_columns": False}
    trainer = trainer_of(
        tmp_path, cls=cls, model=short_of_memory(2, from_call), auto_find_batch_size=True, max_steps=6, **options
    )
    trainer.train()
    base, _ = make("llama")
    assert zoft.replay(base, tmp_path / "zo_log") == 6 + from_call // 2
    assert digest(base) == digest(trainer.model)


@pytest.mark.usefixtures("_fast")
def test_a_resumed_batch_that_stops_fitting_is_an_error(tmp_path: Path) -> None:
    """Trainer would go back to the checkpoint's step with weights that have left it."""
    options: dict[str, Any] = {
        "zo": zoft.ZOConfig(method="mezo", placement="snapshot"),
        "auto_find_batch_size": True,
        "remove_unused_columns": False,
        **SAVING,
    }
    trainer = trainer_of(tmp_path, callbacks=[StopAt(4)], **options)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer = trainer_of(tmp_path, model=short_of_memory(2, from_call=4), **options)
    with pytest.raises(ReplayError, match="at step 6 of a run that was resumed at step 3"):
        trainer.train(resume_from_checkpoint=True)
    trainer = trainer_of(tmp_path, **options)
    trainer.train(resume_from_checkpoint=True)
    assert digest(trainer.model) == end(tmp_path / "whole", **options)[0]


# --- refused before the first step ---------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fp16": True}, "fp16=True scales losses for a backward pass"),
        ({"neftune_noise_alpha": 5.0}, r"neftune_noise_alpha=5.0 adds noise .* in training mode only"),
        ({"learning_rate": -1.0}, "learning_rate must be a finite number >= 0, got -1"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number >= 0, got nan"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(changes: Any, message: str, cls: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        trainer_of(tmp_path, cls=cls, **changes)


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.1)


@WAYS
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda model: {"optimizers": (_optimizer(model), None)}, "makes its own optimizer"),
        (lambda model: {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.1})}, "makes its own optimizer"),
        (
            lambda model: {"optimizers": (None, LambdaLR(_optimizer(model), lambda step: 1.0))},
            "drives an optimizer that does not train",
        ),
    ],
    ids=["optimizer", "optimizer class", "scheduler"],
)
def test_a_given_optimizer_is_refused(given: Any, message: str, cls: Any, tmp_path: Path) -> None:
    model, _ = make("llama")
    with pytest.raises(ConfigError, match=message):
        cls(model=model, args=arguments(tmp_path), zo=zoft.ZOConfig(method="mezo"), **given(model))


def test_deepspeed_is_refused(tmp_path: Path) -> None:
    trainer = Trainer(model=make("llama")[0], args=arguments(tmp_path))
    refuse(trainer, zoft.ZOConfig(method="mezo"))
    trainer.is_deepspeed_enabled = True
    with pytest.raises(ConfigError, match="deepspeed was asked for"):
        refuse(trainer, zoft.ZOConfig(method="mezo"))


@WAYS
def test_pushing_without_a_hub_fails_before_the_first_step(cls: Any, tmp_path: Path) -> None:
    from huggingface_hub.errors import OfflineModeIsEnabled

    with pytest.raises(OfflineModeIsEnabled):
        trainer_of(tmp_path, cls=cls, push_to_hub=True, hub_model_id="nobody/nothing", hub_token="none")
    assert not (tmp_path / "zo_log").exists()


def test_a_schedule_that_waits_for_metrics_reaches_the_records(tmp_path: Path) -> None:
    class Worse(TrainerCallback):  # type: ignore[misc]
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
            metrics["eval_loss"] = float(state.global_step)

    trainer = trainer_of(
        tmp_path,
        evaluation=rows(4),
        eval_strategy="steps",
        eval_steps=1,
        callbacks=[Worse()],
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs={"factor": 0.5, "patience": 0},
        metric_for_best_model="loss",
        max_steps=4,
    )
    trainer.train()
    rates = [record.lrs[0] for record in ReplayLog.open(tmp_path / "zo_log").records]
    assert rates == pytest.approx([1e-2, 1e-2, 5e-3, 2.5e-3])
