"""Checkpoints without weights: resuming rebuilds them, bit for bit, and what it needs is never removed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import zoft
from tests.core.conftest import make
from tests.core.runs import digest
from tests.hf.conftest import rows, trainer_of
from tests.hf.test_resume import STEPS, StopAt, count_forwards, cut
from tests.methods import methods
from zoft.errors import ConfigError, ReplayError

LOG: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "zo_checkpoints": "log"}
SNAPSHOTS: dict[str, Any] = {**LOG, "zo_snapshot_steps": 3}  # due at 4 and at 8


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def whole_run(folder: Path, **options: Any) -> tuple[str, bytes]:
    trainer = trainer_of(folder, **{**LOG, **options})
    trainer.train()
    return digest(trainer.model), (folder / "zo_log").read_bytes()


def resumed(folder: Path, checkpoint: str | bool = True, **options: Any) -> tuple[str, bytes, list[int]]:
    trainer = trainer_of(folder, **{**LOG, **options})
    evaluated = count_forwards(trainer)
    trainer.train(resume_from_checkpoint=checkpoint)
    return digest(trainer.model), (folder / "zo_log").read_bytes(), evaluated


# --- what is written -----------------------------------------------------------------------------------


def test_a_log_only_checkpoint_takes_kilobytes_and_holds_no_weights(tmp_path: Path) -> None:
    whole_run(tmp_path)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4", "checkpoint-6", "checkpoint-8"]
    assert sorted(path.name for path in (tmp_path / "checkpoint-4").iterdir()) == [
        "optimizer.pt",
        "rng_state.pth",
        "scheduler.pt",
        "trainer_state.json",
        "training_args.bin",
        "zo_log_only.txt",
    ]
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "checkpoint-4").iterdir()}
    assert sizes["optimizer.pt"] < 4000 and sum(sizes.values()) < 40_000, sizes


def test_snapshots_are_whole_models(tmp_path: Path) -> None:
    whole_run(tmp_path, **SNAPSHOTS, max_steps=4)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4", "zo_snapshot-4"]
    base, _ = make("llama")
    zoft.replay(base, tmp_path / "zo_log")
    snapshot = type(base).from_pretrained(tmp_path / "zo_snapshot-4")
    assert digest(snapshot) == digest(base)


def test_full_is_the_default_and_nothing_of_ours_is_in_it(tmp_path: Path) -> None:
    whole_run(tmp_path, zo_checkpoints="full", max_steps=2)
    assert names(tmp_path) == ["checkpoint-2"]
    assert (tmp_path / "checkpoint-2" / "model.safetensors").exists()
    assert not list((tmp_path / "checkpoint-2").glob("zo_*"))


def test_the_final_model_is_saved_with_its_weights(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, **LOG, max_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "out"))
    assert digest(type(trainer.model).from_pretrained(tmp_path / "out")) == digest(trainer.model)


# --- resuming ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", methods())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", [LOG, SNAPSHOTS], ids=["base", "snapshots"])
@pytest.mark.parametrize("logged", [6, 7])
def test_resuming_equals_the_uninterrupted_run(
    logged: int, kind: dict[str, Any], dtype: torch.dtype, method: str, tmp_path: Path
) -> None:
    options = {**kind, "zo": zoft.ZOConfig(method=method, zo_eps=1e-2), "dtype": dtype, "weight_decay": 0.1}
    want, log = whole_run(tmp_path, **options)
    shutil.rmtree(tmp_path / "checkpoint-8")
    cut(tmp_path / "zo_log", logged)
    assert resumed(tmp_path, **options) == (want, log, list(range(logged, STEPS)))


def test_a_snapshot_is_where_rebuilding_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new model holds other weights than the base, and only steps 4 and 5 are replayed."""
    want, log = whole_run(tmp_path, **SNAPSHOTS)
    shutil.rmtree(tmp_path / "checkpoint-8")
    cut(tmp_path / "zo_log", 6)
    replayed: list[int] = []
    apply = zoft.engine.ZOEngine.apply
    monkeypatch.setattr(
        zoft.engine.ZOEngine, "apply", lambda self, record: (replayed.append(record.step), apply(self, record))[1]
    )
    assert resumed(tmp_path, **SNAPSHOTS, model=make("llama", seed=9)[0])[:2] == (want, log)
    assert replayed == [4, 5, 6, 7]


@pytest.mark.parametrize("step", [2, 4, 6])
def test_resuming_from_any_checkpoint_by_its_path(step: int, tmp_path: Path) -> None:
    want, log = whole_run(tmp_path, **SNAPSHOTS)
    assert resumed(tmp_path, str(tmp_path / f"checkpoint-{step}"), **SNAPSHOTS) == (want, log, [])


def test_resuming_into_another_folder(tmp_path: Path) -> None:
    want, log = whole_run(tmp_path / "a", **SNAPSHOTS)
    cut(tmp_path / "a" / "zo_log", 7)
    found = resumed(tmp_path / "b", str(tmp_path / "a" / "checkpoint-6"), **SNAPSHOTS)
    assert found == (want, log, [7])


def test_a_run_may_change_between_full_and_log_only(tmp_path: Path) -> None:
    want, log = whole_run(tmp_path, zo_checkpoints="full")
    for step in (6, 8):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    cut(tmp_path / "zo_log", 5)
    trainer = trainer_of(tmp_path, **LOG, callbacks=[StopAt(7)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train(resume_from_checkpoint=True)
    assert not (tmp_path / "checkpoint-6" / "model.safetensors").exists()
    # Rebuilt from the full checkpoint 4: this model does not hold the base weights.
    found = resumed(tmp_path, zo_checkpoints="full", model=make("llama", seed=9)[0])
    assert found == (want, log, [7])
    assert (tmp_path / "checkpoint-8" / "model.safetensors").exists()


def test_the_same_trainer_goes_on_from_a_snapshot(tmp_path: Path) -> None:
    want, log = whole_run(tmp_path / "whole", **SNAPSHOTS)
    trainer = trainer_of(tmp_path / "cut", **SNAPSHOTS, callbacks=[StopAt(7)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.callback_handler.callbacks = [c for c in trainer.callback_handler.callbacks if not isinstance(c, StopAt)]
    trainer.train(resume_from_checkpoint=True)
    assert (digest(trainer.model), (tmp_path / "cut" / "zo_log").read_bytes()) == (want, log)


def test_a_lora_run(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    def adapted() -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return get_peft_model(make("llama")[0], LoraConfig(r=2, target_modules=["q_proj"]))

    for kind, folder in ((LOG, tmp_path / "base"), (SNAPSHOTS, tmp_path / "snapshots")):
        want, log = whole_run(folder, **kind, model=adapted())
        shutil.rmtree(folder / "checkpoint-8")
        cut(folder / "zo_log", 7)
        assert resumed(folder, **kind, model=adapted()) == (want, log, [7])


@pytest.mark.parametrize("kept", [["trainer_state.json", "optimizer.pt"], ["zo_log_only.txt", "optimizer.pt"]])
@pytest.mark.parametrize("kind", ["full", "log"])
def test_a_checkpoint_that_was_half_removed_is_not_started_from(kind: str, kept: list[str], tmp_path: Path) -> None:
    """Trainer's rotation removes file by file, in any order; a kill may leave any of them."""
    want, log = whole_run(tmp_path, zo_checkpoints=kind)
    for step in (6, 8):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    cut(tmp_path / "zo_log", 7)
    trainer = trainer_of(tmp_path, **LOG)
    trainer.train(resume_from_checkpoint=True)
    shutil.rmtree(tmp_path / "checkpoint-8")
    for path in (tmp_path / "checkpoint-4").iterdir():
        if path.name not in kept:
            path.unlink()
    assert resumed(tmp_path) == (want, log, [])


# --- what cannot be rebuilt ----------------------------------------------------------------------------


def test_without_a_snapshot_the_same_trainer_is_told_to_load_the_base_afresh(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, **LOG, callbacks=[StopAt(5)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    before = digest(trainer.model)
    with pytest.raises(ReplayError, match=r"checkpoint-4 holds no weights and has no snapshot .* Load the weights"):
        trainer.train(resume_from_checkpoint=True)
    assert digest(trainer.model) == before


def test_a_checkpoint_whose_log_is_gone_is_refused(tmp_path: Path) -> None:
    whole_run(tmp_path)
    (tmp_path / "zo_log").unlink()
    with pytest.raises(ReplayError, match="needs the run's replay log"):
        resumed(tmp_path)


@pytest.mark.parametrize("damage", ["shorter", "another run"])
def test_a_checkpoint_with_a_log_that_is_not_its_own_is_refused(damage: str, tmp_path: Path) -> None:
    whole_run(tmp_path)
    if damage == "shorter":
        cut(tmp_path / "zo_log", 5)
    else:
        whole_run(tmp_path / "other", learning_rate=2e-2)
        shutil.copy(tmp_path / "other" / "zo_log", tmp_path / "zo_log")
    with pytest.raises(ReplayError, match=r"checkpoint-8 holds no weights, and the log at .* is not of the run"):
        resumed(tmp_path)


def test_another_runs_snapshots_in_the_folder_are_neither_used_nor_removed(tmp_path: Path) -> None:
    whole_run(tmp_path, **SNAPSHOTS, learning_rate=2e-2)
    want, log = whole_run(tmp_path, **LOG, save_total_limit=1)
    assert names(tmp_path) == ["checkpoint-8", "zo_snapshot-4", "zo_snapshot-8"]
    cut(tmp_path / "zo_log", 8)
    assert resumed(tmp_path, max_steps=8) == (want, log, [])


# --- rotation and the best model -----------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2])
def test_rotation_keeps_the_snapshot_that_a_checkpoint_needs_and_no_other(limit: int, tmp_path: Path) -> None:
    options = {**SNAPSHOTS, "save_total_limit": limit, "max_steps": 14, "zo_snapshot_steps": 6}
    want, log = whole_run(tmp_path / "whole", **options)
    seen: list[list[str]] = []
    for left in ("zo_snapshot-6.old", "zo_snapshot-5.new"):
        (tmp_path / "cut" / left).mkdir(parents=True)
    trainer = trainer_of(tmp_path / "cut", **options, callbacks=[StopAt(11)])
    save = trainer._save_checkpoint
    trainer._save_checkpoint = lambda *args: (save(*args), seen.append(names(tmp_path / "cut")))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    kept = {1: ["checkpoint-10"], 2: ["checkpoint-10", "checkpoint-8"]}[limit]
    assert seen[-1] == [*kept, "zo_snapshot-6"]
    assert resumed(tmp_path / "cut", **options, model=make("llama", seed=9)[0]) == (want, log, [11, 12, 13])
    last = {1: ["checkpoint-14"], 2: ["checkpoint-12", "checkpoint-14"]}[limit]
    assert names(tmp_path / "cut") == names(tmp_path / "whole") == [*last, "zo_snapshot-12"]


@pytest.mark.parametrize("limit", [1, None])
@pytest.mark.parametrize("best", [2, 6, 8])
def test_the_best_model_is_loaded_at_the_end(best: int, limit: int | None, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        **SNAPSHOTS,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "save_total_limit": limit,
    }
    trainer = trainer_of(tmp_path, **options, evaluation=rows(4))
    evaluate = trainer.evaluate

    def chosen(*args: Any, **kwargs: Any) -> dict[str, float]:
        return {**evaluate(*args, **kwargs), "eval_loss": float(trainer.state.global_step != best)}

    trainer.evaluate = chosen
    trainer.train()
    base, _ = make("llama")
    zoft.replay(base, tmp_path / "zo_log", upto_step=best)
    assert digest(trainer.model) == digest(base)
    assert f"checkpoint-{best}" in names(tmp_path)


# --- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zo_checkpoints": "none"}, "zo_checkpoints must be one of full, log, got 'none'"),
        ({"zo_checkpoints": "log", "zo_snapshot_steps": 0}, "zo_snapshot_steps must be an integer >= 1, got 0"),
        ({"zo_snapshot_steps": 3}, "zo_snapshot_steps=3 goes with zo_checkpoints='log'"),
        ({"zo_checkpoints": "log", "save_only_model": True}, "save_only_model=True saves what"),
        (
            {"zo_checkpoints": "log", "zo": zoft.ZOConfig(method="mezo", placement="inplace")},
            "placement='inplace' does not replay",
        ),
        (
            {**LOG, "eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True},
            "load_best_model_at_end=True with zo_checkpoints='log' .* Set zo_snapshot_steps",
        ),
    ],
)
def test_what_cannot_be_met_is_refused_before_the_first_step(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        trainer_of(tmp_path, **options, evaluation=rows(4))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("engine", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_engines_with_formats_of_their_own_are_refused(engine: str, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    setattr(trainer, engine, True)
    with pytest.raises(ConfigError, match="does not go with FSDP or DeepSpeed"):
        trainer._choose_checkpoints("log", None, trainer.zo)
