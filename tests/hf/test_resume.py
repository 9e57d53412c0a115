"""A run that was cut short goes on bit-identically, from a checkpoint, from the log, or from both."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

import zoft
from tests.core.conftest import make
from tests.core.runs import digest
from tests.hf.conftest import trainer_of
from tests.methods import methods
from zoft.errors import ReplayError
from zoft.hf.checkpoints import last_complete_checkpoint
from zoft.replay_log import ReplayLog

STEPS = 8
SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3}


def cut(log: Path, records: int) -> None:
    """Shorten a log to some records, as a kill would have left it."""
    content = log.read_bytes()
    first = 16 + struct.unpack_from("<I", content, 8)[0]
    size = (len(content) - first) // len(ReplayLog.open(log).records)
    log.write_bytes(content[: first + records * size])


class StopAt(TrainerCallback):  # type: ignore[misc]
    """Ctrl-C after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def whole_run(folder: Path, **options: Any) -> tuple[str, bytes, list[float]]:
    trainer = trainer_of(folder, **{**SAVING, **options})
    trainer.train()
    return digest(trainer.model), (folder / "zo_log").read_bytes(), losses(trainer)


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def count_forwards(trainer: Any) -> list[int]:
    """One entry for each micro-batch that was evaluated, the step's number."""
    seen: list[int] = []
    estimate = None

    def opened(engine: Any) -> None:
        nonlocal estimate
        estimate = engine.estimate
        engine.estimate = lambda *args: (seen.append(engine.step), estimate(*args))[1]

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            opened(trainer.zo_engine)

    trainer.add_callback(Watch())
    return seen


@pytest.mark.parametrize(
    ("dtype", "accumulate"), [(torch.float32, 2), (torch.bfloat16, 1)], ids=["fp32 accumulated", "bf16"]
)
@pytest.mark.parametrize(
    ("checkpoints", "logged", "evaluated_from"),
    [((3, 6), 6, 6), ((3, 6), 7, 7), ((3,), 5, 5), ((), 5, 5), ((), 0, 0), ((3, 6, 8), 8, 8)],
    ids=["at a checkpoint", "past it", "an earlier one", "the log only", "an empty log", "finished"],
)
def test_a_resumed_run_equals_the_uninterrupted_one(
    checkpoints: tuple[int, ...],
    logged: int,
    evaluated_from: int,
    accumulate: int,
    dtype: torch.dtype,
    tmp_path: Path,
) -> None:
    options: dict[str, Any] = {"dtype": dtype, "gradient_accumulation_steps": accumulate, "weight_decay": 0.1}
    want, log, want_losses = whole_run(tmp_path, **options)
    for step in (3, 6, 8):
        if step not in checkpoints:
            shutil.rmtree(tmp_path / f"checkpoint-{step}")
    cut(tmp_path / "zo_log", logged)

    trainer = trainer_of(tmp_path, **SAVING, **options)
    evaluated = count_forwards(trainer)
    trainer.train(resume_from_checkpoint=True)
    assert digest(trainer.model) == want
    assert (tmp_path / "zo_log").read_bytes() == log
    assert evaluated == [s for s in range(evaluated_from, STEPS) for _ in range(accumulate)]
    assert losses(trainer) == pytest.approx(want_losses, abs=1e-6), "also those of steps taken from the log"


@pytest.mark.parametrize("max_steps", [5, 8, 13], ids=["within an epoch", "at its end", "in the second"])
def test_resuming_a_finished_run_takes_no_step(max_steps: int, tmp_path: Path) -> None:
    options = {"max_steps": max_steps, "save_steps": max_steps}
    want, log, _ = whole_run(tmp_path, **options)
    trainer = trainer_of(tmp_path, **{**SAVING, **options})
    trainer.train(resume_from_checkpoint=True)
    assert (digest(trainer.model), (tmp_path / "zo_log").read_bytes()) == (want, log)
    assert trainer.state.global_step == max_steps


@pytest.mark.parametrize("method", methods())
@pytest.mark.parametrize("stop", [1, 7])
def test_ctrl_c_and_a_new_trainer(stop: int, method: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"zo": zoft.ZOConfig(method=method)}
    want, log, _ = whole_run(tmp_path / "whole", **options)
    trainer = trainer_of(tmp_path / "cut", **SAVING, **options, callbacks=[StopAt(stop)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer = trainer_of(tmp_path / "cut", **SAVING, **options)
    trainer.train(resume_from_checkpoint=True)
    assert digest(trainer.model) == want
    assert (tmp_path / "cut" / "zo_log").read_bytes() == log


def test_ctrl_c_and_the_same_trainer(tmp_path: Path) -> None:
    """Also in the middle of an accumulation, whose first part must not be counted twice."""
    options: dict[str, Any] = {"gradient_accumulation_steps": 2}
    want, log, _ = whole_run(tmp_path / "whole", **options)
    trainer = trainer_of(tmp_path / "cut", **SAVING, **options)
    compute, calls = trainer.compute_loss, 0

    def interrupted(*args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 10:
            raise KeyboardInterrupt
        return compute(*args, **kwargs)

    trainer.compute_loss = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.zo_engine.step == 4
    trainer.train(resume_from_checkpoint=True)
    assert digest(trainer.model) == want
    assert (tmp_path / "cut" / "zo_log").read_bytes() == log


def test_the_log_alone_needs_the_base_weights(tmp_path: Path) -> None:
    """The same trainer, interrupted before its first checkpoint, no longer has them."""
    trainer = trainer_of(tmp_path, callbacks=[StopAt(2)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    before = digest(trainer.model), (tmp_path / "zo_log").read_bytes()
    with pytest.raises(ReplayError, match="base"):
        trainer.train(resume_from_checkpoint=True)
    assert (digest(trainer.model), (tmp_path / "zo_log").read_bytes()) == before


def test_resuming_from_a_checkpoint_named_by_its_path(tmp_path: Path) -> None:
    want, log, _ = whole_run(tmp_path)
    trainer = trainer_of(tmp_path, **SAVING)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert digest(trainer.model) == want
    assert (tmp_path / "zo_log").read_bytes() == log


def test_resuming_into_another_folder_takes_the_log_along(tmp_path: Path) -> None:
    want, log, _ = whole_run(tmp_path / "a")
    cut(tmp_path / "a" / "zo_log", 7)
    trainer = trainer_of(tmp_path / "b", **SAVING)
    trainer.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-6"))
    assert digest(trainer.model) == want
    assert (tmp_path / "b" / "zo_log").read_bytes() == log
    assert len(ReplayLog.open(tmp_path / "a" / "zo_log").records) == 7, "the old log is left as it was"


def test_a_checkpoint_without_its_log_is_refused(tmp_path: Path) -> None:
    whole_run(tmp_path)
    (tmp_path / "zo_log").unlink()
    with pytest.raises(ReplayError, match="needs the run's replay log"):
        trainer_of(tmp_path).train(resume_from_checkpoint=True)


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match=r"nothing to resume: .* neither a complete checkpoint nor a zo_log"):
        trainer_of(tmp_path).train(resume_from_checkpoint=True)


def _shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "trainer_state.json").unlink(),
        lambda folder: _shortened(folder / "trainer_state.json"),
        lambda folder: (folder / "trainer_state.json").write_bytes(b""),
        lambda folder: [path.unlink() for path in folder.iterdir()],
        lambda folder: (folder / "optimizer.pt").unlink(),
    ],
    ids=["no state", "torn state", "empty state", "empty folder", "no optimizer"],
)
def test_a_torn_checkpoint_is_passed_over(damage: Any, tmp_path: Path) -> None:
    want, log, _ = whole_run(tmp_path)
    shutil.rmtree(tmp_path / "checkpoint-8")
    cut(tmp_path / "zo_log", 7)
    assert last_complete_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-6")
    damage(tmp_path / "checkpoint-6")
    assert last_complete_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-3")
    trainer = trainer_of(tmp_path, **SAVING)
    trainer.train(resume_from_checkpoint=True)
    assert digest(trainer.model) == want
    assert (tmp_path / "zo_log").read_bytes() == log


def test_checkpoints_are_compared_as_numbers_and_strangers_ignored(tmp_path: Path) -> None:
    assert last_complete_checkpoint(str(tmp_path / "none")) is None
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-11x", "checkpoint-", "my-checkpoint-12"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text("{}")
        (tmp_path / name / "optimizer.pt").touch()
    assert last_complete_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-10")


def test_weights_only_checkpoints_fall_back_on_the_log(tmp_path: Path) -> None:
    want, log, _ = whole_run(tmp_path, save_only_model=True)
    cut(tmp_path / "zo_log", 7)
    trainer = trainer_of(tmp_path, **SAVING, save_only_model=True)
    trainer.train(resume_from_checkpoint=True)
    assert digest(trainer.model) == want
    assert (tmp_path / "zo_log").read_bytes() == log


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zo": zoft.ZOConfig(method="mezo", zo_eps=1e-2, num_queries=2, seed=1)}, r"seed: 0 \(now 1\)"),
        ({"zo": zoft.ZOConfig(method="mezo", zo_eps=2e-2, num_queries=2)}, r"zo_eps: 0.01 \(now 0.02\)"),
        ({"weight_decay": 0.1}, "parameters = |weight_decays = "),
    ],
)
def test_changed_settings_are_refused(changes: Any, message: str, tmp_path: Path) -> None:
    whole_run(tmp_path)
    content = (tmp_path / "zo_log").read_bytes()
    for name in ("checkpoint-3", "checkpoint-6", "checkpoint-8"):
        shutil.rmtree(tmp_path / name)
    with pytest.raises(ReplayError, match=message):
        trainer_of(tmp_path, **changes).train(resume_from_checkpoint=True)
    assert (tmp_path / "zo_log").read_bytes() == content


def test_starting_afresh_keeps_the_earlier_log(tmp_path: Path) -> None:
    _, log, _ = whole_run(tmp_path)
    want, _, _ = whole_run(tmp_path, zo=zoft.ZOConfig(method="mezo", seed=3))
    assert (tmp_path / "zo_log.1").read_bytes() == log
    base, _ = make("llama")
    zoft.replay(base, tmp_path / "zo_log")
    assert digest(base) == want


def test_lora_resumes_from_a_checkpoint_and_from_the_log(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    def adapted() -> Any:
        base, _ = make("llama")
        torch.manual_seed(0)
        return get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))

    want, log, _ = whole_run(tmp_path, model=adapted())
    for keep in (True, False):
        shutil.rmtree(tmp_path / "checkpoint-8", ignore_errors=True)
        if not keep:
            shutil.rmtree(tmp_path / "checkpoint-6")
            shutil.rmtree(tmp_path / "checkpoint-3")
        cut(tmp_path / "zo_log", 7)
        trainer = trainer_of(tmp_path, model=adapted(), **SAVING)
        trainer.train(resume_from_checkpoint=True)
        assert digest(trainer.model) == want
        assert (tmp_path / "zo_log").read_bytes() == log
