"""``zo_lr="auto"`` inside Hugging Face: schedules, accumulation, logs, resuming, adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import TrainerCallback

import zoft
from tests.core.conftest import make
from tests.core.runs import digest
from tests.hf.conftest import trainer_of, with_callback
from zoft.errors import ConfigError
from zoft.replay_log import ReplayLog

AUTO = zoft.ZOConfig(method="mezo", zo_lr="auto")


class StopAt(TrainerCallback):
    """Ends a run early."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def run(folder: Path, **changes: Any) -> Any:
    trainer = trainer_of(folder, **{"zo": AUTO, "max_steps": 16, **changes})
    trainer.train()
    return trainer


def rates(folder: Path) -> list[float]:
    return [record.lrs[0] for record in ReplayLog.open(folder / "zo_log").records]


def test_logs_show_the_step_size_and_one_line_says_what_was_chosen(tmp_path: Path, capsys: Any) -> None:
    trainer = run(tmp_path, lr_scheduler_type="constant")
    (entry,) = [e for e in trainer.state.log_history if e.get("step") == 16 and "loss" in e]
    # A single step may be shortened, not all of the last ones.
    assert rates(tmp_path)[-1] <= 1.001 * entry["zo_lr"] and entry["zo_eps"] > 0.0
    assert entry["zo_lr"] == pytest.approx(max(rates(tmp_path)[-6:]), rel=0.5)
    card = dict(trainer.how_trained().rows)
    assert card["learning rate"] == f"measured, {entry['zo_lr']:.2g} in the end, constant"
    assert card["zo_eps"] == f"{entry['zo_eps']:.3g}"
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("zo_lr auto: ")]
    assert printed == [trainer.zo_step_size.said]


def test_the_schedule_scales_it_and_learning_rate_does_not_matter(tmp_path: Path) -> None:
    for name, lr in (("a", 1.0), ("b", 1e-5)):
        run(tmp_path / name, lr_scheduler_type="linear", learning_rate=lr)
    assert rates(tmp_path / "a") == pytest.approx(rates(tmp_path / "b"), rel=1e-6)
    assert 0.0 < rates(tmp_path / "a")[-1] < max(rates(tmp_path / "a"))


@pytest.mark.parametrize(
    "cls",
    [pytest.param(zoft.ZOTrainer, id="trainer"), pytest.param(with_callback(), id="callback", marks=pytest.mark.slow)],
)
def test_a_run_with_accumulation_replays_bit_for_bit(cls: Any, tmp_path: Path) -> None:
    trainer = run(tmp_path, cls=cls, gradient_accumulation_steps=2, dtype=torch.bfloat16, max_steps=14)
    base, _ = make("llama", torch.bfloat16)
    assert zoft.replay(base, tmp_path / "zo_log") == 14
    assert digest(base) == digest(trainer.model)


@pytest.mark.parametrize("zo_checkpoints", ["full", pytest.param("log", marks=pytest.mark.slow)])
def test_a_resumed_run_is_the_whole_one(zo_checkpoints: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 12, "zo_checkpoints": zo_checkpoints}
    whole = run(tmp_path / "whole", **options)
    stopped = trainer_of(tmp_path / "part", zo=AUTO, **{**options, "max_steps": 16})
    stopped.add_callback(StopAt(12))
    stopped.train()
    again = trainer_of(tmp_path / "part", zo=AUTO, **{**options, "max_steps": 16})
    again.train(resume_from_checkpoint=True)
    assert digest(again.model) == digest(whole.model)
    assert again.zo_step_size.state_dict() == whole.zo_step_size.state_dict()


def test_it_trains_an_adapter(tmp_path: Path) -> None:
    model = get_peft_model(make("llama")[0], LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    trainer = run(tmp_path, model=model)
    assert trainer.zo_step_size.figures["zo_lr"] > 0.0 and rates(tmp_path)[-1] > 0.0


def test_methods_that_cannot_are_refused_when_the_trainer_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="zo_lr='auto' does not go with method 'adam'"):
        trainer_of(tmp_path, zo=zoft.ZOConfig(method="adam", zo_lr="auto"))
