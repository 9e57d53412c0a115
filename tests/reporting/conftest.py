"""Runs to report on, made once; nothing writes into them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.runs import make_assets
from zoft.cli.report import main as report
from zoft.cli.train import main as train

EXAMPLES = [
    {"prompt": "a film\nit was", "expected": "great", "before": "terrible", "after": " great "},
    {"prompt": "| <img src=x onerror=alert(1)>\n````\n*it* was", "expected": "a|b", "before": "a|b", "after": "_<b>_"},
    {"prompt": "no answers", "expected": "none"},
]


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_assets(tmp_path_factory.mktemp("assets")))


@pytest.fixture(scope="session")
def finished(recipe: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluated while it trained, with checkpoints and examples."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    flags = ["--max_steps", "40", "--eval_strategy", "steps", "--eval_steps", "10", "--zo_num_queries", "2"]
    flags += ["--save_strategy", "steps", "--save_steps", "20", "--zo_checkpoints", "log", "--weight_decay", "0.1"]
    train(["--config", recipe, "--output_dir", str(folder), *flags])
    (folder / "examples.json").write_text(json.dumps(EXAMPLES))
    return folder


@pytest.fixture(scope="session")
def private(recipe: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out rows are private too."""
    folder = tmp_path_factory.mktemp("runs") / "private"
    promise = ["--dp_noise_multiplier", "1", "--dp_target_delta", "1e-5", "--dp_accountant", "rdp"]
    train(["--config", recipe, "--output_dir", str(folder), "--max_steps", "6", *promise])
    return folder


def reported(*runs: str | Path, out: Path) -> dict[str, Any]:
    """Return a report's data."""
    report([*map(str, runs), "--json", str(out / "report.json")])
    return dict(json.loads((out / "report.json").read_text()))
