"""``ZOTrainer`` is a ``transformers.Trainer``: its loop, its arguments, its logs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback

import zoft
from tests.core.conftest import make
from tests.core.runs import digest
from tests.hf.conftest import arguments, rows, trainer_of
from tests.methods import methods
from zoft.errors import ConfigError
from zoft.replay_log import ReplayLog

METHODS = methods()
ULP = 2.0**-21  # of a float32 loss in [4, 8)


def records(output_dir: Path) -> list[Any]:
    return ReplayLog.open(output_dir / "zo_log").records


def logs_of(trainer: Any) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_loss_goes_down(dtype: torch.dtype, tmp_path: Path) -> None:
    trainer = trainer_of(
        tmp_path,
        dtype=dtype,
        train=rows(4),
        zo=zoft.ZOConfig(method="mezo", zo_eps=1e-2, num_queries=8),
        max_steps=25,
        learning_rate=2e-2,
        lr_scheduler_type="constant",
    )
    trainer.train()
    losses = [entry["loss"] for entry in logs_of(trainer)]
    assert losses[-1] < losses[0] - 0.4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("method", METHODS)
def test_base_weights_and_the_runs_log_are_the_trained_weights(method: str, dtype: torch.dtype, tmp_path: Path) -> None:
    trainer = trainer_of(
        tmp_path, dtype=dtype, zo=zoft.ZOConfig(method=method), weight_decay=0.1, gradient_accumulation_steps=2
    )
    trainer.train()
    base, _ = make("llama", dtype)
    before = digest(base)
    assert zoft.replay(base, tmp_path / "zo_log") == 8
    assert digest(base) == digest(trainer.model) != before


@pytest.mark.parametrize("method", METHODS)
def test_two_micro_batches_of_four_equal_a_batch_of_eight(method: str, tmp_path: Path) -> None:
    """With uneven numbers of labels. Tolerance: four units in the last place of the float32 loss."""
    if method == "grzo":
        pytest.skip("here a micro-batch has one loss, and so counts as one example")
    zo = zoft.ZOConfig(method=method, zo_eps=1e-2, num_queries=3)
    options: dict[str, Any] = {"zo": zo, "max_steps": 5, "learning_rate": 1e-3}
    one = trainer_of(tmp_path / "one", per_device_train_batch_size=8, **options)
    two = trainer_of(tmp_path / "two", gradient_accumulation_steps=2, **options)
    one.train()
    two.train()
    slopes = one.zo_engine.method.estimator.projected_grads
    for a, b in zip(records(tmp_path / "one"), records(tmp_path / "two"), strict=True):
        assert b.loss == pytest.approx(a.loss, abs=4 * ULP)
        assert slopes(b.scalars) == pytest.approx(slopes(a.scalars), abs=4 * ULP / 1e-2)
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert (a - b).abs().max() <= 2e-6
    assert [e["loss"] for e in logs_of(two)] == pytest.approx([e["loss"] for e in logs_of(one)], abs=1e-4)


@pytest.mark.filterwarnings("ignore:no trained weight changed:zoft.ZoftWarning")  # learning_rate=0 is meant
def test_the_last_uneven_accumulation_is_weighed_by_its_own_size(tmp_path: Path) -> None:
    """12 rows, batch 4, accumulation 2: the second step of the epoch has one micro-batch."""
    trainer = trainer_of(
        tmp_path, train=rows(12), gradient_accumulation_steps=2, max_steps=2, learning_rate=0.0, logging_steps=1
    )
    trainer.train()
    for record in records(tmp_path):
        assert 4.0 < record.loss < 5.5


def test_schedules_reach_the_records(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, warmup_steps=2, lr_scheduler_type="linear")
    trainer.train()
    factors = [0, 0.5, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert [r.lrs[0] for r in records(tmp_path)] == pytest.approx([1e-2 * f for f in factors])
    assert [e["learning_rate"] for e in logs_of(trainer)] == pytest.approx([1e-2 * f for f in factors])


@pytest.mark.parametrize("method", METHODS)
def test_logs_hold_the_loss_at_theta_and_what_a_run_is_watched_by(method: str, tmp_path: Path) -> None:
    """The logged loss of step s is that of a plain forward at the weights replayed up to s."""
    if method == "grzo":
        pytest.skip("its slope is that of one example: this batch has one loss")
    same = [rows(1)[0]] * 8
    trainer = trainer_of(tmp_path, train=same, zo=zoft.ZOConfig(method=method, num_queries=2), max_steps=4)
    trainer.train()
    entries = logs_of(trainer)
    assert [e["step"] for e in entries] == [1, 2, 3, 4]
    batch = {name: tensor[None] for name, tensor in same[0].items()}
    slopes = trainer.zo_engine.method.estimator.projected_grads
    for step, (entry, record) in enumerate(zip(entries, records(tmp_path), strict=True)):
        model, _ = make("llama")
        zoft.replay(model, tmp_path / "zo_log", upto_step=step)
        with torch.no_grad():
            plain = float(model.eval()(**batch).loss)
        # A two-sided mean is off by the curvature times zo_eps^2; a clean loss is not.
        assert entry["loss"] == pytest.approx(plain, abs=4 * ULP if method == "fzoo" else 1e-3)
        mean_square = sum(p * p for p in slopes(record.scalars)) / 2
        assert entry["projected_grad"] == pytest.approx(mean_square**0.5, rel=1e-5)
        assert entry["learning_rate"] > 0 and entry["peak_memory_gib"] > 0.05
        assert entry["tokens_per_second"] > 0
        assert "grad_norm" not in entry


def test_tokens_are_counted_without_padding(tmp_path: Path) -> None:
    padded = [{**row, "attention_mask": torch.tensor([1] * 5 + [0] * 3)} for row in rows(8)]
    trainer = trainer_of(tmp_path, train=padded, max_steps=2)
    counted = []
    count = trainer._meter.count_tokens
    trainer._meter.count_tokens = lambda inputs: (count(inputs), counted.append(trainer._meter._tokens))
    trainer.train()
    assert counted == [20, 20], "four rows of five tokens, afresh after each log line"
    assert [entry["padding_share"] for entry in logs_of(trainer)] == [0.375, 0.375]


def test_evaluation_runs_on_the_unperturbed_model(tmp_path: Path) -> None:
    held_out = rows(8, seed=9)
    trainer = trainer_of(tmp_path, evaluation=held_out, eval_strategy="steps", eval_steps=2, max_steps=4)
    trainer.train()
    evaluations = [e for e in trainer.state.log_history if "eval_loss" in e]
    assert [e["step"] for e in evaluations] == [2, 4]
    for entry in evaluations:
        model, _ = make("llama")
        zoft.replay(model, tmp_path / "zo_log", upto_step=entry["step"])
        plain = Trainer(model=model, args=arguments(tmp_path / "plain"), eval_dataset=held_out).evaluate()
        assert entry["eval_loss"] == plain["eval_loss"]


def test_the_best_model_is_loaded_at_the_end(tmp_path: Path) -> None:
    trainer = trainer_of(
        tmp_path,
        evaluation=rows(8, seed=9),
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        learning_rate=0.3,
    )
    trainer.train()
    losses = {e["step"]: e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e}
    best = min(losses, key=lambda step: losses[step])
    assert best != 8, "the last model must not be the best one, or this test shows nothing"
    model, _ = make("llama")
    zoft.replay(model, tmp_path / "zo_log", upto_step=best)
    assert digest(model) == digest(trainer.model)
    assert len(records(tmp_path)) == 8


def test_gradient_clipping_has_no_effect(tmp_path: Path) -> None:
    digests = set()
    for index, norm in enumerate((0.0, 1e-9, 1.0)):
        trainer = trainer_of(tmp_path / str(index), max_grad_norm=norm, max_steps=3)
        trainer.train()
        digests.add(digest(trainer.model))
    assert len(digests) == 1


def test_no_gradient_no_optimizer_state_and_no_activation_is_kept(tmp_path: Path) -> None:
    trainer, saved = trainer_of(tmp_path, gradient_accumulation_steps=2, max_steps=3), []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        trainer.train()
    assert all(p.grad is None for p in trainer.model.parameters())
    assert not trainer._zo_optimizer.state
    assert max(saved, default=0) <= 8


def test_dropout_is_off_and_training_mode_comes_back(tmp_path: Path) -> None:
    model, _ = make("llama")
    model.model.layers[0].mlp.dropout = nn.Dropout(0.5)
    modes, after = [], []
    model.model.layers[0].mlp.register_forward_pre_hook(lambda module, _: modes.append(module.training))

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            after.append(all(module.training for module in model.modules()))

    trainer_of(tmp_path, model=model, callbacks=[Watch()], max_steps=3).train()
    assert modes and not any(modes)
    assert after == [True] * 3


def test_a_loss_that_pops_its_labels_is_evaluated_at_every_point(tmp_path: Path) -> None:
    """Label smoothing takes ``labels`` out of the inputs."""
    same = [rows(1)[0]] * 4
    trainer = trainer_of(tmp_path, train=same, max_steps=1, label_smoothing_factor=0.1, zo=zoft.ZOConfig(method="fzoo"))
    trainer.train()
    model, _ = make("llama")
    plain = Trainer(model=model.eval(), args=arguments(tmp_path / "plain", label_smoothing_factor=0.1))
    batch = {name: tensor[None].repeat(4, 1) for name, tensor in same[0].items()}
    with torch.no_grad():
        smoothed = plain.compute_loss(model, dict(batch))
        sharp = model(**batch).loss
    assert records(tmp_path)[0].loss == pytest.approx(smoothed.item(), rel=1e-6)
    assert abs(smoothed - sharp) > 1e-3


def test_the_users_own_loss_is_the_one_estimated(tmp_path: Path) -> None:
    class Doubled(Trainer):  # type: ignore[misc]
        def compute_loss(self, model: nn.Module, inputs: Any, **kwargs: Any) -> torch.Tensor:
            inputs.pop("labels")
            return 2 * model(**inputs).logits.float().square().mean()

    class ZODoubled(zoft.ZOTrainerMixin, Doubled):  # type: ignore[misc]
        pass

    same = [rows(1)[0]] * 4
    trainer = trainer_of(tmp_path, train=same, max_steps=1, cls=ZODoubled, zo=zoft.ZOConfig(method="fzoo"))
    trainer.train()
    model, _ = make("llama")
    with torch.no_grad():
        plain = 2 * model.eval()(input_ids=same[0]["input_ids"][None]).logits.square().mean()
    assert records(tmp_path)[0].loss == pytest.approx(plain.item(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:no trained weight changed:zoft.ZoftWarning")  # learning_rate=0 is meant
@pytest.mark.parametrize("placement", ["stream", "snapshot"])
def test_autocast_sees_the_perturbation(placement: str, tmp_path: Path) -> None:
    """bf16=True on float32 weights: the projected gradients are those of float32, up to bf16's noise."""
    slopes = []
    for bf16 in (False, True):
        zo = zoft.ZOConfig(method="mezo", zo_eps=5e-2, placement=placement)
        trainer_of(tmp_path / str(bf16), zo=zo, bf16=bf16, max_steps=6, learning_rate=0.0).train()
        slopes.append(torch.tensor([r.scalars[0] for r in records(tmp_path / str(bf16))]))
    assert (slopes[1] - slopes[0]).norm() < 0.15 * slopes[0].norm()


def test_lora_trains_its_adapters_only(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    base, _ = make("llama", torch.bfloat16)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    start = copy.deepcopy(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = trainer_of(tmp_path, model=model, learning_rate=1e-2)
    trainer.train()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "lora_" in name}
    zoft.replay(start, tmp_path / "zo_log")
    assert digest(start) == digest(model)


def test_weight_decay_spares_vectors(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, weight_decay=0.1, max_steps=1)
    trainer.train()
    decays = {g["weight_decay"]: {p.ndim for p in g["params"]} for g in trainer._zo_optimizer.param_groups}
    assert decays == {0.1: {2}, 0.0: {1}}


def test_a_second_train_goes_on_in_the_same_log(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, max_steps=3, lr_scheduler_type="constant")
    trainer.train()
    middle = digest(trainer.model)
    trainer.train()
    base, _ = make("llama")
    assert zoft.replay(base, tmp_path / "zo_log") == 6
    assert digest(base) == digest(trainer.model) != middle


def test_the_engine_exists_from_training_on(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, max_steps=1)
    with pytest.raises(ConfigError, match="call train"):
        _ = trainer.zo_engine
    trainer.train()
    assert trainer.zo_engine.step == 1


def test_evaluate_and_predict_work_before_training(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, evaluation=rows(4))
    assert 4 < trainer.evaluate()["eval_loss"] < 5.5
    assert trainer.predict(rows(4)).predictions.shape == (4, 8, 96)
