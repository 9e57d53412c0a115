"""Every file under recipes/ runs as it is, but for its size: two steps of a tiny model on a few rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.architectures import make_model, tokenizer_for
from tests.tasks.chats import with_template
from tests.tasks.classifiers import save_body, write_images
from tests.tasks.library_rows import CASES
from zoft.cli.arguments.tasks import IMAGES
from zoft.cli.arguments.tasks import TEXTS as TEXT_CLASSES
from zoft.cli.train import main
from zoft.evaluation.rewards import RewardFunctions
from zoft.log_file import ReplayLog
from zoft.recipe import read_recipe
from zoft.tasks.template import MASK

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
TEXTS = ("sentence", "passage")  # of the tasks that recipes name
INSTALLED = "packaged:rotten-tomatoes"  # with the quickstart
BODIES = {TEXT_CLASSES: "bert", IMAGES: "resnet"}  # of models with a layer for classes

every_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By what they are: a causal one that has a template for chats, and a masked one."""
    folders = {kind: str(tmp_path_factory.mktemp(kind)) for kind in ("causal", "masked")}
    make_model("llama").save_pretrained(folders["causal"])
    with_template(tokenizer_for("causal")).save_pretrained(folders["causal"])
    make_model("roberta").save_pretrained(folders["masked"])
    tokenizer_for("masked").save_pretrained(folders["masked"])
    return folders


def rows_of(task: str, file: Path) -> str:
    """A dozen rows of a published task, each with a text of its own."""
    rows: list[dict[str, Any]] = []
    for number in range(12):
        row = CASES[task].rows[number % len(CASES[task].rows)]
        texts = {name: f"{value} {file.stem} {number}" for name, value in row.items() if name in TEXTS}
        rows.append({**row, **texts})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


@pytest.mark.filterwarnings("ignore:the data:zoft.errors.ZoftWarning")  # so few rows have all one label
@every_recipe
def test_a_recipe_runs_as_it_is_but_for_its_size(
    recipe: Path, models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parents[1])  # recipes name their own data from there
    settings = read_recipe(recipe)
    task = settings.get("task")
    if task in BODIES:
        model = save_body(BODIES[task], tmp_path / "model")
    else:
        model = models["masked" if MASK in settings.get("template", "") else "causal"]
    flags = ["--model_name_or_path", model, "--output_dir", str(tmp_path / "run"), "--max_steps", "2"]
    flags += ["--max_train_samples", "40", "--max_eval_samples", "4", "--max_length", "160"]
    flags += ["--use_cpu", "true", "--report_to", "none", "--disable_tqdm", "true"]
    if task == IMAGES:
        flags += ["--dataset", write_images(tmp_path / "images")]
    elif task in CASES:
        rows = rows_of(task, tmp_path / "rows.jsonl")
        flags += [
            "--dataset",
            rows,
            "--eval_file",
            rows_of(task, tmp_path / "held_out.jsonl"),
            "--max_dev_samples",
            "2",
        ]
    else:
        rows = settings.get("dataset") or settings["train_file"]
        assert rows == INSTALLED or Path(rows).is_file()
    if "reward_funcs" in settings:  # which a tiny model's gibberish never earns
        RewardFunctions.of_paths(settings["reward_funcs"], settings.get("reward_weights"))
        flags += ["--reward_funcs", "tests.cli.runs:letters", "--reward_weights", "1", "--zo_eps", "3"]
    if "objective" in settings:
        flags += ["--zo_eps", "3"]  # an error rate of few rows seldom moves
    if settings.get("eval_strategy") == "steps":
        flags += ["--eval_steps", "1", "--save_steps", "1"]
    main(["--config", str(recipe), *flags])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["steps"] == 2
    assert len(ReplayLog.open(tmp_path / "run" / "zo_log").records) == 2


@every_recipe
def test_a_recipe_says_how_it_is_run(recipe: Path) -> None:
    header = "\n".join(line for line in recipe.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    assert f"zoft-train --config recipes/{recipe.name}" in header
