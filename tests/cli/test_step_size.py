"""``--zo_lr auto`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

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
