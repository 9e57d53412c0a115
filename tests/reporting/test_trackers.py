"""``report_to``: what a run is watched by arrives at Trainer's trackers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoft.cli.train import main as train

event_accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
def test_projected_gradients_speed_and_scores_arrive_at_tensorboard(recipe: str, tmp_path: Path) -> None:
    flags = ["--max_steps", "12", "--eval_strategy", "steps", "--eval_steps", "6", "--report_to", "tensorboard"]
    train(["--config", recipe, "--output_dir", str(tmp_path / "run"), *flags])
    (folder,) = (tmp_path / "run" / "runs").iterdir()
    found = event_accumulator.EventAccumulator(str(folder)).Reload()
    logged = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    for name in ("loss", "learning_rate", "projected_grad", "tokens_per_second", "peak_memory_gib", "eval_accuracy"):
        tag = f"eval/{name[5:]}" if name.startswith("eval_") else f"train/{name}"
        sent = [(event.step, event.value) for event in found.Scalars(tag)]
        expected = [(entry["step"], entry[name]) for entry in logged if name in entry]
        assert len(sent) >= 2 and sent == [(step, pytest.approx(value)) for step, value in expected], name
