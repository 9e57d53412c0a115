"""Where a result was made: enough to tell two machines, or two states of the code, apart."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch


@cache
def environment(device: str) -> dict[str, Any]:
    """Return versions, the processor or GPU, threads, and the code's git revision (None outside a clone)."""
    installed = {found.name: found.version for found in distributions()}
    packages = ("torch", "transformers", "numpy", "scipy", "scikit-learn", "numba")
    return {
        "zoft": installed.get("zoft"),
        "revision": _revision(),
        "python": platform.python_version(),
        **{name: installed.get(name) for name in packages},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _revision() -> str | None:
    """The commit that is checked out, with ``+`` after it if files differ from it."""
    folder = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
