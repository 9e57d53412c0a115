"""``zoft-train`` end to end, in process and in processes that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import zoft
from tests.cli.runs import STEPS, finish, start_training, steps_logged, train_through_kills
from tests.core.runs import digest
from zoft.cli.train import main
from zoft.recipe import read_recipe
from zoft.replay_log import ReplayLog


@pytest.fixture
def train(recipe: str, tmp_path: Path) -> Any:
    def run(name: str, *flags: str, config: str = recipe) -> Path:
        main(["--config", config, "--output_dir", str(tmp_path / name), *flags])
        return tmp_path / name

    return run


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main(list(argv))
    return int(caught.value.code or 0), capsys.readouterr().err


# --- what a run leaves ---------------------------------------------------------------------------------


def test_a_run_leaves_a_model_a_log_its_settings_and_its_scores(
    train: Any, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train("run", "--zo_num_queries", "4", "--max_steps", "60")
    said = capsys.readouterr().out
    assert "48 training rows, 12 held-out rows" in said and "trained 60 steps (480 forwards)" in said

    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["steps"] == 60 and metrics["forwards"] == 480 and metrics["method"] == "mezo"
    assert metrics["before"]["n"] == metrics["after"]["n"] == 12
    assert metrics["after"]["loss"] < metrics["before"]["loss"]
    assert metrics["trained_parameters"] > 1000 and metrics["peak_memory_gib"] > 0

    model = AutoModelForCausalLM.from_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder)("great film")["input_ids"] == [12, 4]
    base = AutoModelForCausalLM.from_pretrained(read_recipe(recipe)["model_name_or_path"])
    assert zoft.replay(base, folder / "zo_log") == 60
    assert digest(base) == digest(model)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_resolved_config_repeats_the_run(dtype: str, train: Any) -> None:
    first = train("first", "--dtype", dtype, "--zo_method", "fzoo", "--weight_decay", "0.1", "--seed", "7")
    again = train("again", config=str(first / "resolved_config.yaml"))
    assert weights(again) == weights(first)
    assert (again / "zo_log").read_bytes() == (first / "zo_log").read_bytes()
    before, after = (json.loads((f / "metrics.json").read_text())["after"] for f in (first, again))
    assert before == after
    other = train("other", "--seed", "8", config=str(first / "resolved_config.yaml"))
    assert weights(other) != weights(first)


def test_the_placement_and_the_gradient_flags_do_not_change_the_run(train: Any) -> None:
    folders = [
        train("stream", "--zo_placement", "stream"),
        train("snapshot", "--zo_placement", "snapshot"),
        train("clipped", "--max_grad_norm", "1e-9"),
    ]
    assert len({weights(folder) for folder in folders}) == 1


def test_shuffled_labels_are_a_control_run(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    plain = train("plain")
    assert "SHUFFLED" not in capsys.readouterr().out
    control = train("control", "--shuffle_labels")
    output = capsys.readouterr().out
    assert "ALL LABELS ARE SHUFFLED (control run)" in output and "after on true labels: held-out accuracy" in output
    assert weights(control) != weights(plain)
    scores, control_scores = (json.loads((f / "metrics.json").read_text()) for f in (plain, control))
    assert control_scores["before"]["loss"] != scores["before"]["loss"], "the held-out labels are shuffled as well"
    assert control_scores["after_on_true_labels"]["loss"] != control_scores["after"]["loss"]
    assert "after_on_true_labels" not in scores


def test_the_model_need_not_be_saved(train: Any) -> None:
    folder = train("run", "--save_model", "False")
    assert not list(folder.glob("*.safetensors")) and (folder / "zo_log").exists()


def test_a_lora_run_saves_its_adapter(train: Any) -> None:
    folder = train("run", "--use_peft", "--lora_r", "2")
    assert (folder / "adapter_model.safetensors").exists()
    assert not (folder / "model.safetensors").exists()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["trained_parameters"] == 2 * 2 * 2 * (16 + 16), "layers, q and v, r, in + out"


@pytest.mark.parametrize("words", [["terrible", "great"], ["very terrible", "great"]], ids=["one row", "two rows"])
@pytest.mark.parametrize("adapter", [[], ["--use_peft", "--lora_r", "2"]], ids=["full", "lora"])
def test_grzo_gives_each_example_a_direction(adapter: list[str], words: list[str], train: Any) -> None:
    """An option of two tokens makes a row for each option of an example."""
    flags = ["--zo_method", "grzo", "--max_steps", "3", "--gradient_accumulation_steps", "2", *adapter]
    folder = train("run", *flags, "--per_device_train_batch_size", "4", "--label_words", *words)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["placement"] == "flipout" and metrics["forwards"] == 12
    records = ReplayLog.open(folder / "zo_log").records
    assert [sum(scalar != 0.0 for scalar in record.scalars) for record in records] == [8, 8, 8]


def test_an_earlier_runs_log_is_kept(train: Any) -> None:
    folder = train("run", "--max_steps", "2")
    log = (folder / "zo_log").read_bytes()
    train("run", "--max_steps", "3")
    assert (folder / "zo_log.1").read_bytes() == log
    assert len(ReplayLog.open(folder / "zo_log").records) == 3


def test_evaluation_during_training_is_logged(train: Any) -> None:
    folder = train("run", "--eval_strategy", "steps", "--eval_steps", "12", "--save_strategy", "steps")
    state = json.loads((folder / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    logs = state["log_history"]
    assert [entry["step"] for entry in logs if "eval_accuracy" in entry] == [12, 24]
    assert all("projected_grad" in entry and "grad_norm" not in entry for entry in logs if "loss" in entry)
    metrics = json.loads((folder / "metrics.json").read_text())
    final = [entry for entry in logs if "eval_accuracy" in entry][-1]
    assert final["eval_accuracy"] == pytest.approx(metrics["after"]["accuracy"])
    assert final["eval_loss"] == pytest.approx(metrics["after"]["loss"], rel=1e-5)


# --- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--zo_epz", "1e-3"], 2, "Did you mean '--zo_eps'"),
        (["--learning_rat", "1e-3"], 2, "Did you mean '--learning_rate'"),
        (["--zo_method", "mezoo"], 2, "method 'mezoo' is unknown. Did you mean 'mezo'?"),
        (["--zo_eps", "0"], 2, "zo_eps must be a finite number > 0, got 0.0"),
        (["--zo_include", "nothing*"], 2, "the pattern 'nothing*' matches no parameter"),
        (["--dataset", "no_such.jsonl"], 2, "there is no such file"),
        (["--model_name_or_path", "./no_such"], 2, "there is no folder './no_such'"),
        (["--template", "{txt} it was"], 2, "no column 'txt'"),
        (["--fp16", "True"], 2, "fp16=True scales losses"),
        (["--learning_rate", "-1"], 2, "learning_rate must be a finite number >= 0"),
        (["--resume"], 1, "nothing to resume"),
    ],
)
def test_what_cannot_be_meant_ends_with_one_line_and_an_exit_code(
    flags: list[str], code: int, message: str, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    got, said = refused(capsys, "--config", recipe, "--output_dir", str(tmp_path / "out"), *flags)
    assert got == code, said
    assert message in said and "Traceback" not in said


@pytest.mark.parametrize("missing", ["template", "label_words"])
def test_a_recipe_without_a_task_or_template_or_words_is_refused(
    missing: str, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line for line in Path(recipe).read_text().splitlines() if not line.startswith(missing)]
    (tmp_path / "recipe.yaml").write_text("\n".join(lines))
    got, said = refused(capsys, "--config", str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path / "out"))
    assert got == 2 and "a recipe needs a task (--task sst2), or a template and label_words" in said
    assert not (tmp_path / "out").exists()


def test_changed_settings_are_not_resumed(train: Any, recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train("run", "--max_steps", "4")
    before = (folder / "zo_log").read_bytes()
    got, said = refused(
        capsys, "--config", recipe, "--output_dir", str(folder), "--resume", "--max_steps", "4", "--seed", "1"
    )
    assert got == 1 and "seed: 42 (now 1)" in said
    assert (folder / "zo_log").read_bytes() == before
    assert "seed: 1" not in (folder / "resolved_config.yaml").read_text(), "the log's own settings stay beside it"


# --- kills ---------------------------------------------------------------------------------------------

VARIANTS = {
    "plain": [],
    "bf16": ["--dtype", "bfloat16", "--weight_decay", "0.1"],
    "accumulated": ["--gradient_accumulation_steps", "2", "--zo_method", "fzoo", "--zo_num_queries", "3"],
    "lora": ["--use_peft", "--lora_r", "2", "--save_total_limit", "1"],
    "dora and head": ["--use_peft", "--use_dora", "--lora_r", "2", "--lora_modules_to_save", "lm_head"],
    "prefix": ["--use_peft", "--peft_type", "prefix_tuning", "--num_virtual_tokens", "3"],
    "prompt, log only": ["--use_peft", "--peft_type", "prompt_tuning", "--save_strategy", "no"],
    "log only": ["--save_strategy", "no", "--dtype", "bfloat16"],
    "log checkpoints": ["--zo_checkpoints", "log", "--save_total_limit", "2"],
    "snapshots": ["--zo_checkpoints", "log", "--zo_snapshot_steps", "6", "--save_total_limit", "1"],
}


def _kill_and_compare(recipe: str, tmp_path: Path, variant: str, kills: int, seed: int) -> None:
    argv = ["--config", recipe, "--save_strategy", "steps", "--save_steps", "3", *VARIANTS[variant]]
    finish([*argv, "--output_dir", str(tmp_path / "whole")], tmp_path / "whole.txt")
    seen = train_through_kills(argv, tmp_path / "killed", kills, seed)
    assert any(0 < steps < STEPS for steps in seen), f"no kill found the run going: {seen}"
    model = "adapter_model.safetensors" if "--use_peft" in argv else "model.safetensors"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert (killed / "zo_log").read_bytes() == (whole / "zo_log").read_bytes(), seen
    assert (killed / model).read_bytes() == (whole / model).read_bytes(), seen
    after = [json.loads((f / "metrics.json").read_text())["after"] for f in (whole, killed)]
    assert after[0] == after[1]


@pytest.mark.parametrize("variant", [pytest.param("accumulated", marks=pytest.mark.slow), "snapshots"])
def test_a_run_killed_at_random_moments_and_resumed_is_the_uninterrupted_run(
    variant: str, recipe: str, tmp_path: Path
) -> None:
    _kill_and_compare(recipe, tmp_path, variant, kills=2, seed=len(variant))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_fifteen_kills(variant: str, seed: int, recipe: str, tmp_path: Path) -> None:
    _kill_and_compare(recipe, tmp_path, variant, kills=15, seed=seed)


def _killed_at(recipe: str, folder: Path, event: int) -> bool:
    """Kill a run at one change to its files, resume it, compare; False if the run ended before that change."""
    argv = ["--config", recipe, "--save_strategy", "steps", "--save_steps", "2", "--max_steps", "8"]
    argv += VARIANTS["snapshots"]
    whole, killed = folder / "whole", folder / f"killed-{event}"
    if not whole.exists():
        finish([*argv, "--output_dir", str(whole)], folder / "whole.txt")
    argv = [*argv, "--output_dir", str(killed)]
    process = start_training(argv, folder / "killed.txt", die_at=event)
    process.join(120)
    if process.exitcode == 0:
        return False
    assert process.exitcode == -signal.SIGKILL, (folder / "killed.txt").read_text()
    finish([*argv, "--resume"] if (killed / "zo_log").exists() else argv, folder / "killed.txt")
    assert (killed / "zo_log").read_bytes() == (whole / "zo_log").read_bytes(), event
    assert weights(killed) == weights(whole), event
    names = [{path.name for path in run.iterdir() if path.is_dir()} for run in (whole, killed)]
    assert names[0] == {"checkpoint-8", "zo_snapshot-6"} <= names[1], event
    # A finished run that is resumed saves nothing more, so what the kill has left of a rotation may stay.
    assert all(name == "checkpoint-6" or name.endswith(".old") for name in names[1] - names[0]), event
    settings = [(run / "resolved_config.yaml").read_text().replace(str(run), "") for run in (whole, killed)]
    assert settings[0] == settings[1], event
    return True


@pytest.mark.parametrize("event", [1, 3])
def test_a_run_killed_while_its_log_is_begun(event: int, recipe: str, tmp_path: Path) -> None:
    assert _killed_at(recipe, tmp_path, event)


@pytest.mark.slow
def test_a_run_killed_at_each_change_to_its_files(recipe: str, tmp_path: Path) -> None:
    """In the middle of every checkpoint, snapshot, rotation, and of the final model."""
    event = 1
    while _killed_at(recipe, tmp_path, event):
        event += 1
    assert event > 50, "so many changes there are"


def test_a_second_run_in_the_same_folder_is_refused(recipe: str, tmp_path: Path) -> None:
    argv = ["--config", recipe, "--output_dir", str(tmp_path / "run"), "--max_steps", "2000"]
    process = start_training(argv, tmp_path / "first.txt")
    try:
        while steps_logged(tmp_path / "run" / "zo_log") < 2 and process.is_alive():
            time.sleep(0.001)
        settings = (tmp_path / "run" / "resolved_config.yaml").read_text()
        for flags in (["--resume"], [], ["--seed", "1"]):
            second = start_training([*argv, *flags], tmp_path / "second.txt")
            second.join(120)
            assert second.exitcode == 1, (tmp_path / "second.txt").read_text()
    finally:
        process.kill()
        process.join()
    said = (tmp_path / "second.txt").read_text()
    assert said.count("another process is writing") == 3 and "Traceback" not in said and "before:" not in said
    assert (tmp_path / "run" / "resolved_config.yaml").read_text() == settings
    assert not (tmp_path / "run" / "zo_log.1").exists()
    done = steps_logged(tmp_path / "run" / "zo_log")
    finish([*argv, "--resume", "--max_steps", str(done + 1)], tmp_path / "third.txt")


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_evaluated(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    got, said = refused(capsys, "--config", recipe, "--output_dir", str(tmp_path / "file"))
    assert got == 2 and "cannot be written: File exists" in said
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    got, said = refused(capsys, "--config", recipe, "--output_dir", str(tmp_path / "run"))
    assert got == 2 and "cannot be written: it is read-only" in said


def test_ctrl_c_ends_with_130_and_a_log_that_can_be_resumed(recipe: str, tmp_path: Path) -> None:
    argv = ["--config", recipe, "--output_dir", str(tmp_path / "cut"), "--max_steps", "2000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "zoft.cli.train", *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        deadline = time.monotonic() + 120
        while steps_logged(tmp_path / "cut" / "zo_log") < 5 and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, said
    assert "interrupted" in said and "--resume" in said and "Traceback" not in said
    done = len(ReplayLog.open(tmp_path / "cut" / "zo_log").records)
    assert 5 <= done < 2000

    # The linear schedule depends on max_steps, so the run is compared up to where it was cut.
    base = AutoModelForCausalLM.from_pretrained(read_recipe(recipe)["model_name_or_path"])
    assert zoft.replay(base, tmp_path / "cut" / "zo_log") == done
    assert all(torch.isfinite(p).all() for p in base.parameters())


def test_ctrl_c_during_a_run_and_resuming_it(recipe: str, tmp_path: Path) -> None:
    argv = ["--config", recipe, "--save_strategy", "steps", "--save_steps", "5", "--zo_num_queries", "4"]
    finish([*argv, "--output_dir", str(tmp_path / "whole")], tmp_path / "whole.txt")
    argv = [*argv, "--output_dir", str(tmp_path / "cut")]
    process = start_training(argv, tmp_path / "cut.txt")
    while steps_logged(tmp_path / "cut" / "zo_log") < 3 and process.is_alive():
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130, (tmp_path / "cut.txt").read_text()
    finish([*argv, "--resume"], tmp_path / "cut.txt")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
