"""How long a run trains, and how much memory it takes at its peak."""

from __future__ import annotations

import time
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_FORGET_PEAK = Path("/proc/self/clear_refs")  # writing 5 sets the peak to what is resident now (proc(5))


class Clock:
    """Seconds of training, without those spent on evaluation."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._paused = 0.0

    def seconds(self) -> float:
        """Return the seconds so far."""
        return time.perf_counter() - self._started - self._paused

    def exclude(self, since: float) -> None:
        """Take out what has passed since ``time.perf_counter()`` was ``since``."""
        self._paused += time.perf_counter() - since


class MemoryMeter:
    """Measures from its making on: on a GPU what torch allocates, on Linux what the process holds in RAM.

    On a GPU this is exact. In RAM it is what the process grew by, so pages that an earlier run left to the
    allocator do not show: a figure for models of many megabytes, noise for small ones.

    Attributes:
        base_bytes: What was held at the start; 0 where it cannot be measured.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.base_bytes = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.base_bytes = torch.cuda.memory_allocated(device)
        elif _FORGET_PEAK.exists():
            _FORGET_PEAK.write_text("5")
            self.base_bytes = _status("VmRSS")

    def extra_bytes(self) -> int | None:
        """Return the peak so far beyond what was held at the start; None where it cannot be measured."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self.base_bytes
        return max(0, _status("VmHWM") - self.base_bytes) if _FORGET_PEAK.exists() else None

    def peak_bytes(self) -> int | None:
        """Return the peak so far with what was held at the start; None where it cannot be measured."""
        extra = self.extra_bytes()
        return None if extra is None else self.base_bytes + extra


def _status(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
