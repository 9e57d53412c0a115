"""``zoft-train`` with tasks: by name, from a file of one's own, and with the best checkpoint at the end."""

from __future__ import annotations

import json
import random
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

import zoft
from tests.cli.runs import BAD, GOOD, NEUTRAL
from tests.core.runs import digest
from tests.tasks.architectures import make_model, tokenizer_for
from zoft.cli.train import main
from zoft.errors import ZoftWarning
from zoft.tasks.library import task_names, task_spec

RECIPES = Path(__file__).parents[2] / "recipes"


def write_rows(path: Path, text_column: str = "sentence", count: int = 80, seed: int = 0) -> Path:
    """Rows like those of the tests' model: the last word says what the label is."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        words = [*rng.choices(NEUTRAL, k=rng.randint(5, 8)), rng.choice(GOOD if number % 2 else BAD)]
        rows.append({text_column: " ".join(words), "label": number % 2})
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def flags_of(base: str, folder: Path, **more: Any) -> list[str]:
    settings = {"model_name_or_path": base, "output_dir": folder, "use_cpu": True, "report_to": "none", **more}
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(list(argv))
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "checkpoints", [[], ["--zo_checkpoints", "log", "--zo_snapshot_steps", "4"]], ids=["full", "log"]
)
def test_mezo_s_protocol_ends_with_the_checkpoint_of_the_lowest_development_loss(
    checkpoints: list[str], base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", count=90)
    folder = tmp_path / "run"
    # So large a learning rate that the loss goes up again.
    small = {
        "max_steps": 12,
        "eval_steps": 2,
        "save_steps": 2,
        "save_total_limit": 9,
        "learning_rate": 0.4,
        "zo_eps": 1e-2,
        "lr_scheduler_type": "linear",
    }
    sizes = {"max_train_samples": 40, "max_dev_samples": 20, "max_eval_samples": 30, "per_device_train_batch_size": 4}
    files = {"train_file": rows, "eval_file": write_rows(tmp_path / "test.jsonl", seed=1)}
    main(["--config", str(RECIPES / "mezo.yaml"), *flags_of(base, folder, **small, **sizes, **files), *checkpoints])

    said = capsys.readouterr().out
    assert "20 to choose the checkpoint by" in said
    state = json.loads((folder / "checkpoint-12" / "trainer_state.json").read_text())
    losses = {entry["step"]: entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry}
    assert list(losses) == [2, 4, 6, 8, 10, 12]
    best = min(losses, key=lambda step: losses[step])
    assert best != 12, "the last model must not be the best one, or this test shows nothing"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["best_step"] == best and metrics["steps"] == 12
    assert f"the weights are those of step {best}, the best by loss" in said
    model = AutoModelForCausalLM.from_pretrained(base)
    assert zoft.replay(model, folder / "zo_log", upto_step=best) == best
    assert digest(model) == digest(AutoModelForCausalLM.from_pretrained(folder))


def test_choosing_a_checkpoint_by_the_rows_that_are_measured_warns(base: str, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", "text")
    flags = flags_of(base, tmp_path / "run", train_file=rows, max_steps=2, learning_rate=1e-3)
    best = ["--eval_strategy", "steps", "--save_strategy", "steps", "--save_steps", "2", "--eval_steps", "2"]
    with pytest.warns(ZoftWarning, match="which flatters the result; set max_dev_samples"):
        main(
            [
                *flags,
                "--template",
                "{text} it was",
                "--label_words",
                "terrible",
                "great",
                *best,
                "--load_best_model_at_end",
            ]
        )


def test_few_shots_are_of_each_class(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    flags = flags_of(base, tmp_path / "run", task="sst2", train_file=rows, num_shots=4, max_steps=1, learning_rate=1e-3)
    main([*flags, "--save_strategy", "no"])
    assert "8 training rows, 8 to choose the checkpoint by" in capsys.readouterr().out


# --- custom tasks --------------------------------------------------------------------------------------

TASK = """\
template: "{review} it was"
label_words: [terrible, great]
dataset: rows.jsonl
eval_file: more/held_out.jsonl
max_eval_samples: 10
"""


def test_a_task_of_one_s_own_brings_its_rows_from_beside_its_file(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine" / "more").mkdir(parents=True)
    write_rows(tmp_path / "mine" / "rows.jsonl", "review", count=40)
    write_rows(tmp_path / "mine" / "more" / "held_out.jsonl", "review", seed=1)
    task = tmp_path / "mine" / "task.yaml"
    task.write_text(TASK)
    flags = flags_of(base, tmp_path / "run", task=task, max_steps=2, learning_rate=1e-3)
    main([*flags, "--save_strategy", "no"])
    assert "10 held-out rows" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["after"]["n"] == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("{review} it", "{reveiw} it"),
            r"there is no column 'reveiw'; found: 'review', 'label'. Did you mean 'review'\?",
        ),
        (("max_eval", "metric: acuracy\nmax_eval"), r"there is no metric 'acuracy'. Did you mean 'accuracy'\?"),
        (("label_words", "lable_words"), "a task has label_words .* found: template, lable_words"),
    ],
)
def test_a_mistake_in_a_task_s_file_is_told_before_anything_is_measured(
    change: tuple[str, str], message: str, base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "more").mkdir()
    write_rows(tmp_path / "rows.jsonl", "review")
    write_rows(tmp_path / "more" / "held_out.jsonl", "review", seed=1)
    task = tmp_path / "task.yaml"
    task.write_text(TASK.replace(*change))
    error = refused(capsys, *flags_of(base, tmp_path / "run", task=task, max_steps=2))
    assert re.search(message, error), error
    assert not (tmp_path / "run").exists()


# --- the documentation's example ----------------------------------------------------------------------


def test_the_documentation_s_task_trains_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (RECIPES.parent / "docs" / "tasks.md").read_text(encoding="utf-8")
    section = text.partition("## A task of your own")[2]
    rows, task, command = (
        re.search(rf"```{kind}\n(.*?)```", section, flags=re.DOTALL)[1] for kind in ("json", "yaml", "sh")
    )
    (tmp_path / "tickets.jsonl").write_text(rows)
    (tmp_path / "tickets.yaml").write_text(task)
    make_model("llama").save_pretrained(tmp_path / "model")
    tokenizer_for("causal").save_pretrained(tmp_path / "model")
    program, *argv = shlex.split(command.replace("packaged:smollm2-135m-instruct", "model").replace("\\\n", " "))
    assert program == "zoft-train"
    monkeypatch.chdir(tmp_path)
    main([*argv, "--use_cpu", "--report_to", "none", "--disable_tqdm", "true"])
    said = capsys.readouterr().out
    assert "8 training rows, 2 held-out rows" in said and "trained 20 steps" in said and "macro f1" in said
    shown = json.loads((tmp_path / "runs" / "tickets" / "examples.json").read_text())
    assert shown[0]["prompt"].startswith("Ticket: ") and shown[0]["prompt"].endswith("We should answer it")
    assert {one["expected"] for one in shown} <= {"later", "today"}


def test_the_documentation_names_every_task() -> None:
    text = (RECIPES.parent / "docs" / "tasks.md").read_text(encoding="utf-8")
    for name in task_names():
        spec = task_spec(name)
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        assert f"`{spec.dataset}` {spec.dataset_config_name or ''}".strip() in row
        if spec.task.label_words is not None:
            assert ", ".join(spec.task.label_words) in row
