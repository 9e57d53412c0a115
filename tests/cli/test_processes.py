"""``zoft-train`` on two processes, started as users start them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.runs import STEPS, make_assets, steps_logged
from tests.distributed.ranks import free_port

ROOT = Path(__file__).parent.parent.parent
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc_per_node=2"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"],
}


def launch(launcher: str, recipe: Path, folder: Path, *flags: str) -> subprocess.Popen[str]:
    port = "--main_process_port" if launcher == "accelerate" else "--master_port"
    command = [sys.executable, "-m", *LAUNCHERS[launcher], port, str(free_port()), "-m", "zoft.cli.train"]
    return subprocess.Popen(
        [*command, "--config", str(recipe), "--output_dir", str(folder), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    return output


def workers(launcher: subprocess.Popen[str]) -> list[int]:
    """Process ids of the ranks under a launcher."""
    listing = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listing.splitlines()[1:]]
    return [int(pid) for pid, parent in rows if int(parent) == launcher.pid]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_train_evaluate_and_write_once(launcher: str, tmp_path: Path) -> None:
    recipe = make_assets(tmp_path)
    output = finish(launch(launcher, recipe, tmp_path / "run"))
    assert output.count("before: accuracy") == 1, "one process prints"
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["processes"] == 2 and metrics["steps"] == STEPS
    assert metrics["after"]["n"] == 12, "every held-out row is scored once"
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.slow
def test_two_processes_killed_at_random_and_resumed_end_as_if_nothing_had_happened(tmp_path: Path) -> None:
    recipe = make_assets(tmp_path)
    finish(launch("torchrun", recipe, tmp_path / "whole"))
    rng, folder, seen = random.Random(0), tmp_path / "killed", []
    for _ in range(4):
        done = steps_logged(folder / "zo_log")
        target = min(STEPS - 1, done + 1 + rng.randrange(6))
        run = launch("torchrun", recipe, folder, *(["--resume"] if (folder / "zo_log").exists() else []))
        deadline = time.monotonic() + 120
        while steps_logged(folder / "zo_log") < target and run.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        ranks = workers(run)
        if ranks:
            os.kill(rng.choice(ranks), signal.SIGKILL)
        began = time.monotonic()
        run.communicate(timeout=60)
        assert time.monotonic() - began < 30, "the other rank ends within seconds, not at a time-out"
        seen.append(steps_logged(folder / "zo_log"))
    finish(launch("torchrun", recipe, folder, "--resume"))
    for file in ("zo_log", "model.safetensors"):
        assert (folder / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert seen[0] > 0
