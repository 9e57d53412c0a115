"""Energy, where the device counts it."""

from __future__ import annotations

from pathlib import Path

import torch

_PACKAGES = "intel-rapl:[0-9]*/energy_uj"  # Linux's power capping framework; counts whole processor packages


def joules(device: torch.device) -> float | None:
    """Return the joules that the device has used since some moment; None where it does not say."""
    if device.type == "cuda":
        try:
            import pynvml
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
        except pynvml.NVMLError:
            return None
    try:
        counters = [float(path.read_text()) for path in Path("/sys/class/powercap").glob(_PACKAGES)]
    except OSError:  # readable by root alone
        return None
    return sum(counters) / 1e6 if counters else None
