"""``--zo_lr auto`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from zoft.cli.approaches.zeroth_order import ZerothOrder
from zoft.cli.config import dump_resolved, parse_arguments
from zoft.cli.replay import main as replay
from zoft.cli.train import main as train
from zoft.recipe import read_recipe


@pytest.mark.slow
def test_a_run_measures_reports_and_replays(recipe: str, tmp_path: Path, capsys: Any) -> None:
    train(["--config", recipe, "--zo_lr", "auto", "--output_dir", str(tmp_path / "run"), "--max_steps", "16"])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["zo_lr"] > 0.0 and metrics["forwards"] > 16 * 2
    assert "zo_lr auto: first step size" in capsys.readouterr().out
    resolved = read_recipe(tmp_path / "run" / "resolved_config.yaml")
    assert resolved["zo_lr"] == "auto" and resolved["zo_eps"] == 0.01
    replay(["--config", recipe, "--output_dir", str(tmp_path / "run"), "--verify", str(tmp_path / "run")])


def test_a_method_that_cannot_is_one_line(recipe: str, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        train(["--config", recipe, "--zo_lr", "auto", "--zo_method", "sign", "--output_dir", str(tmp_path / "run")])
    assert "zo_lr='auto' does not go with method 'sign'" in capsys.readouterr().err


PRIVATE = ["--dp_target_epsilon", "2", "--dp_target_delta", "1e-5", "--zo_method", "mezo"]


@pytest.mark.parametrize(
    ("recipe_text", "flags", "chosen"),
    [
        ("", [], "auto"),
        ("", ["--learning_rate", "5e-5"], None),  # TrainingArguments' own default, but said
        ("", ["--learning_rate=1e-3"], None),
        ("learning_rate: 1e-3", [], None),
        ("learning_rate: 1e-3", ["--zo_lr", "auto"], "auto"),
        ("zo_lr: given", [], None),
        ("zo_lr: given", ["--zo_lr", "auto"], "auto"),
        ("", ["--zo_method", "mezo"], "auto"),
        ("", ["--zo_method", "adam"], None),  # whose steps cannot be measured
        ("", PRIVATE, None),
    ],
)
def test_the_step_size_is_measured_where_no_rate_is_given_and_a_run_says_which(
    recipe_text: str, flags: list[str], chosen: str | None, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"seed: 0\n{recipe_text}\n", encoding="utf-8")
    parsed = parse_arguments(["--config", str(recipe), *flags])
    approach = ZerothOrder.of(parsed)
    assert approach.config.zo_lr == chosen
    dump_resolved(tmp_path / "resolved_config.yaml", parsed, approach.resolved)
    again = parse_arguments(["--config", str(tmp_path / "resolved_config.yaml")])
    assert ZerothOrder.of(again).config.zo_lr == chosen
    assert again.get(TrainingArguments).learning_rate == parsed.get(TrainingArguments).learning_rate
