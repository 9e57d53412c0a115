"""Each flaw known from published implementations turns a test red when it is put back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "privacy_mutations.py"


@pytest.mark.slow
def test_no_known_flaw_survives() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout.count("`tests/privacy/test_") >= 24, "a red test for each"


def test_an_unknown_flaw_is_refused() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--only", "no such flaw"], capture_output=True, text=True)
    assert done.returncode == 2 and "no flaw has 'no such flaw' in its name" in done.stderr
