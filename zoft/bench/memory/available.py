"""What memory there is, and what a prediction asks of it."""

from __future__ import annotations

from pathlib import Path

import torch

__all__ = ["available_bytes", "bytes_needed"]

_MEMINFO = Path("/proc/meminfo")
_MORE = 1.4  # a process was measured to take up to 1.34 times what is predicted (docs/performance.md)
_PROCESS = 2**29  # the interpreter, libraries, a GPU's context


def bytes_needed(predicted: int) -> int:
    """Return what had better be free for a predicted peak, with room for what a prediction does not see."""
    return int(_MORE * predicted) + _PROCESS


def available_bytes(device: torch.device) -> int | None:
    """Return what is free now; None where the system does not say. A container's own limit is not seen."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
