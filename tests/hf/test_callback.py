"""``ZOCallback`` on an unmodified Trainer: the run of a ``ZOTrainer``, and afterwards the Trainer as it was."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

import zoft
from tests.core.conftest import make
from tests.core.runs import digest
from tests.hf.conftest import Row, arguments, rows, trainer_of, with_callback
from tests.hf.test_resume import SAVING, StopAt, cut
from tests.methods import methods
from zoft.errors import ConfigError, DataError, ReplayError
from zoft.replay_log import ReplayLog


def adapted() -> nn.Module:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model: nn.Module = get_peft_model(make("llama")[0], LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    return model


def outcome(folder: Path, trainer: Any) -> tuple[str, bytes, list[float]]:
    """A run's weights, its log and the losses it showed."""
    history = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return digest(trainer.model), (folder / "zo_log").read_bytes(), history


def run(folder: Path, **options: Any) -> tuple[str, bytes, list[float]]:
    trainer = trainer_of(folder, **options)
    trainer.train()
    return outcome(folder, trainer)


# --- the same run --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", methods())
def test_it_is_the_run_of_a_zotrainer(method: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "zo": zoft.ZOConfig(method=method),
        "weight_decay": 0.1,
        "gradient_accumulation_steps": 2,
        "warmup_steps": 2,
    }
    want = run(tmp_path / "mixin", **options)
    assert run(tmp_path / "callback", cls=with_callback(), **options) == want
    base, _ = make("llama")
    assert zoft.replay(base, tmp_path / "callback" / "zo_log") == 8
    assert digest(base) == want[0]


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": torch.bfloat16},
        {"bf16": True},
        {"bf16": True, "zo": zoft.ZOConfig(method="mezo", placement="snapshot")},
        {"model": "gpt2"},
        {"model": "lora"},
        {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "max_steps": 6},
        {"label_smoothing_factor": 0.1},
    ],
    ids=["bf16 weights", "autocast", "autocast in place", "tied", "LoRA", "uneven batches", "label smoothing"],
)
def test_it_is_the_run_of_a_zotrainer_also_with(options: dict[str, Any], tmp_path: Path) -> None:
    kinds = {"gpt2": lambda: make("gpt2")[0], "lora": adapted}
    outcomes = []
    for name, cls in (("mixin", zoft.ZOTrainer), ("callback", with_callback())):
        made = {"model": kinds[options["model"]]()} if "model" in options else {}
        outcomes.append(run(tmp_path / name, cls=cls, **{**options, **made}))
    assert outcomes[0] == outcomes[1]


def test_a_loss_given_to_trainer_is_the_one_estimated(tmp_path: Path) -> None:
    """It is computed from the logits, outside the model's forward."""

    def squares(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        return outputs.logits.float().square().mean()

    same = [rows(1)[0]] * 4
    trainer = trainer_of(
        tmp_path,
        cls=lambda **options: with_callback()(compute_loss_func=squares, **options),
        train=same,
        max_steps=1,
        zo=zoft.ZOConfig(method="fzoo"),
    )
    trainer.train()
    model, _ = make("llama")
    with torch.no_grad():
        plain = model.eval()(input_ids=same[0]["input_ids"][None]).logits.square().mean()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(plain.item(), rel=1e-5)


def test_no_gradient_no_optimizer_state_and_no_activation_is_kept(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, cls=with_callback(), gradient_accumulation_steps=2, max_steps=3)
    gradients, saved = [], []

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            gradients.extend(p.grad for p in trainer.model.parameters())

    trainer.add_callback(Watch())

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        trainer.train()
    assert gradients and all(gradient is None for gradient in gradients)
    assert not trainer.optimizer.state
    assert max(saved, default=0) <= 8


# --- the Trainer and the model are left as they were ---------------------------------------------------


class Failing(TrainerCallback):  # type: ignore[misc]
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            raise OSError("of a callback")


class FailingRows(list[Row]):
    def __getitem__(self, index: Any) -> Any:
        raise OSError("of the data")


def failing_model() -> nn.Module:
    model, _ = make("llama")
    forward, calls = model.model.layers[1].mlp.forward, 0

    def fail(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise OSError("of the model")
        return forward(*args, **kwargs)

    model.model.layers[1].mlp.forward = fail
    return model


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, None),
        ({"callbacks": [Failing()]}, OSError),
        ({"callbacks": [StopAt(2)]}, KeyboardInterrupt),
        ({"train": FailingRows(rows(8))}, OSError),
        ({"model": failing_model()}, OSError),
    ],
    ids=["finished", "failed in a callback", "Ctrl-C", "failed in the data", "failed in the model"],
)
def test_the_trainer_and_the_model_are_as_before(options: Any, error: Any, tmp_path: Path) -> None:
    model = options.get("model") or make("llama")[0]
    model.lm_head.weight.requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()]
    forwards = {name: vars(module).get("forward") for name, module in model.named_modules()}
    seen = []

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            seen.append([p.requires_grad for p in model.parameters()])

    options = {**options, "model": model, "callbacks": [Watch(), *options.get("callbacks", [])]}
    trainer = trainer_of(tmp_path, cls=with_callback(), **options)
    if error is None:
        trainer.train()
        assert seen == [flags] * 8
    else:
        with pytest.raises(error):
            trainer.train()
    assert type(trainer) is Trainer
    assert [p.requires_grad for p in model.parameters()] == flags
    assert {name: vars(module).get("forward") for name, module in model.named_modules()} == forwards
    log = zoft.replay_log.ReplayLog.open(tmp_path / "zo_log") if (tmp_path / "zo_log").exists() else None
    assert log is None or len(log.records) == trainer._zo_optimizer.engine.step


def test_evaluation_and_prediction_work_before_and_after(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, cls=with_callback(), evaluation=rows(4), eval_strategy="steps", eval_steps=4)
    first = trainer.evaluate()["eval_loss"]
    trainer.train()
    plain = Trainer(model=trainer.model, args=arguments(tmp_path / "plain"), eval_dataset=rows(4))
    assert trainer.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"] != first
    assert [e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e][-1] == plain.evaluate()["eval_loss"]
    assert trainer.predict(rows(4)).predictions.shape == (4, 8, 96)


def test_taken_out_again_the_trainer_trains_by_gradients(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, cls=with_callback(), max_steps=1)
    trainer.pop_callback(zoft.ZOCallback)
    trainer.train()
    assert "grad_norm" in trainer.state.log_history[0]
    assert not (tmp_path / "zo_log").exists()


def test_taken_out_after_training_the_trainer_goes_on_by_gradients(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, cls=with_callback(), max_steps=1)
    trainer.train()
    trainer.pop_callback(zoft.ZOCallback)
    before = digest(trainer.model)
    trainer.train()
    assert "grad_norm" in trainer.state.log_history[0]
    assert digest(trainer.model) != before
    assert len(ReplayLog.open(tmp_path / "zo_log").records) == 1


@pytest.mark.parametrize("given", ["mezo", {"method": "mezo"}])
def test_what_is_no_configuration_is_refused_at_once(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"must be a ZOConfig, got .*; write ZOConfig\("):
        zoft.ZOCallback(given)


@pytest.mark.parametrize("cls", [zoft.ZOTrainer, with_callback()], ids=["ZOTrainer", "ZOCallback"])
def test_an_empty_training_set_is_said(cls: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train_dataset has no rows"):
        trainer_of(tmp_path, cls=cls, train=[]).train()


# --- going on ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", methods())
@pytest.mark.parametrize("checkpoints", [(3, 6), (3,), ()], ids=["a checkpoint", "an earlier one", "the log only"])
def test_a_resumed_run_equals_the_uninterrupted_one(checkpoints: Any, method: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"zo": zoft.ZOConfig(method=method), "weight_decay": 0.1, **SAVING}
    want = run(tmp_path, cls=with_callback(), **options)
    for step in {3, 6, 8} - set(checkpoints):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    cut(tmp_path / "zo_log", 7)
    trainer = trainer_of(tmp_path, cls=with_callback(), **options)
    trainer.train(resume_from_checkpoint=True)
    assert outcome(tmp_path, trainer)[:2] == want[:2]


def test_callback_and_mixin_go_on_from_each_others_checkpoints(tmp_path: Path) -> None:
    want = run(tmp_path / "a", **SAVING)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for folder, cls in (("a", with_callback()), ("b", zoft.ZOTrainer)):
        shutil.rmtree(tmp_path / folder / "checkpoint-8")
        cut(tmp_path / folder / "zo_log", 6)
        trainer = trainer_of(tmp_path / folder, cls=cls, **SAVING)
        trainer.train(resume_from_checkpoint=True)
        assert outcome(tmp_path / folder, trainer)[:2] == want[:2]


def test_ctrl_c_and_the_same_trainer(tmp_path: Path) -> None:
    want = run(tmp_path / "whole", cls=with_callback(), **SAVING)
    trainer = trainer_of(tmp_path / "cut", cls=with_callback(), callbacks=[StopAt(5)], **SAVING)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.pop_callback(StopAt)
    trainer.train(resume_from_checkpoint=True)
    assert outcome(tmp_path / "cut", trainer)[:2] == want[:2]


def test_a_second_train_goes_on_in_the_same_log(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, cls=with_callback(), max_steps=3, lr_scheduler_type="constant")
    trainer.train()
    trainer.train()
    base, _ = make("llama")
    assert zoft.replay(base, tmp_path / "zo_log") == 6
    assert digest(base) == digest(trainer.model)


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="nothing to resume"):
        trainer_of(tmp_path, cls=with_callback()).train(resume_from_checkpoint=True)


def test_the_best_model_is_loaded_after_an_early_stop(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "evaluation": rows(8, seed=9),
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "learning_rate": 0.3,
        "save_total_limit": 2,
    }
    stop = EarlyStoppingCallback(early_stopping_patience=2)
    trainer = trainer_of(tmp_path, cls=with_callback(), callbacks=[stop], **options)
    trainer.train()
    losses = {e["step"]: e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e}
    best = min(losses, key=lambda step: losses[step])
    assert max(losses) == best + 2 < 8, "it stopped early"
    model, _ = make("llama")
    zoft.replay(model, tmp_path / "zo_log", upto_step=best)
    assert digest(model) == digest(trainer.model)
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2


# --- what cannot work is said before the first step ----------------------------------------------------


def test_a_callback_that_comes_too_late_is_refused(tmp_path: Path) -> None:
    trainer = Trainer(model=make("llama")[0], args=arguments(tmp_path), train_dataset=rows())
    trainer.add_callback(zoft.ZOCallback())
    with pytest.raises(ConfigError, match=r"pass it to the constructor, as callbacks=\[ZOCallback"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_callback_of_another_trainer_is_refused(tmp_path: Path) -> None:
    callback = zoft.ZOCallback()
    options: dict[str, Any] = {"args": arguments(tmp_path), "train_dataset": rows()}
    Trainer(model=make("llama")[0], callbacks=[callback], **options)
    with pytest.raises(ConfigError, match="belongs to another Trainer"):
        Trainer(model=make("llama")[0], callbacks=[callback], **options)
    trainer = Trainer(model=make("llama")[0], **options)
    trainer.add_callback(callback)
    with pytest.raises(ConfigError, match="pass it to the constructor"):
        trainer.train()


def test_two_configurations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more than one ZOCallback"):
        trainer_of(tmp_path, cls=with_callback(), callbacks=[zoft.ZOCallback()])
    with pytest.raises(ConfigError, match="ZOTrainer is a ZOTrainerMixin already"):
        trainer_of(tmp_path, callbacks=[zoft.ZOCallback()])


def test_a_replaced_method_would_hide_the_callbacks(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, cls=with_callback())
    compute = trainer.compute_loss
    trainer.compute_loss = lambda *args, **kwargs: 2 * compute(*args, **kwargs)
    with pytest.raises(ConfigError, match=r"compute_loss of this Trainer object was replaced.*ZOTrainerMixin"):
        trainer.train()


def test_it_needs_a_trainer() -> None:
    with pytest.raises(ConfigError, match="needs a transformers Trainer"):
        zoft.ZOCallback().on_init_end(None, None, None)
