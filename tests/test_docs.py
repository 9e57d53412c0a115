"""The documentation's examples run as they are printed, and all train to the same weights."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.core.runs import digest
from tests.distributed.ranks import run_ranks

LOOPS = Path(__file__).parent.parent / "docs" / "loops.md"


def blocks() -> dict[str, str]:
    """The code under each heading; ``""`` for that before the first one."""
    text = LOOPS.read_text(encoding="utf-8")
    sections = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    headings = ["", *sections[1::2]]
    return {
        heading: "\n".join(re.findall(r"```python\n(.*?)```", body, flags=re.DOTALL))
        for heading, body in zip(headings, sections[::2], strict=True)
    }


EXAMPLES = [heading for heading in blocks() if heading]


def run(heading: str, folder: str, change: tuple[str, str] = ("", "")) -> tuple[str, bytes]:
    os.chdir(folder)
    code = blocks()[""] + blocks()[heading]
    assert change[0] in code
    scope: dict[str, Any] = {}
    exec(compile(code.replace(*change), f"{LOOPS.name}: {heading}", "exec"), scope)
    return digest(scope["model"]), Path("zo_log").read_bytes()


def test_there_is_an_example_for_each_loop() -> None:
    assert EXAMPLES == ["Plain PyTorch", "Accelerate", "Lightning Fabric"]


@pytest.mark.parametrize("heading", EXAMPLES)
def test_an_example_trains_as_plain_pytorch_does(heading: str, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "other").mkdir()
    want = run_ranks(1, run, "Plain PyTorch", str(tmp_path / "plain"))
    assert run_ranks(1, run, heading, str(tmp_path / "other")) == want


def test_the_accelerate_example_runs_in_two_processes(tmp_path: Path) -> None:
    results = run_ranks(2, run, "Accelerate", str(tmp_path), ("batch_size=16", "batch_size=8"))
    assert results[0][0] == results[1][0]


def test_the_accelerate_example_accumulates(tmp_path: Path) -> None:
    """Two micro-batches of eight are one step: half as many records as micro-batches."""
    from zoft.replay_log import ReplayLog

    run_ranks(1, _accumulated, str(tmp_path))
    assert len(ReplayLog.open(tmp_path / "zo_log").records) == 4


def _accumulated(folder: str) -> None:
    os.chdir(folder)
    code = blocks()[""] + blocks()["Accelerate"]
    code = code.replace("batch_size=16", "batch_size=8").replace("steps=1", "steps=2")
    exec(compile(code, LOOPS.name, "exec"), {})
