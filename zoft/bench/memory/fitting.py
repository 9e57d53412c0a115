"""The largest batch that fits."""

from __future__ import annotations

import re
from collections.abc import Callable

from zoft.errors import ConfigError

__all__ = ["largest_batch", "size_in_bytes"]

_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?) ?(?P<unit>[KMGT]i?B)")
_POWER = {"K": 1, "M": 2, "G": 3, "T": 4}


def size_in_bytes(size: str) -> int:
    """Return the bytes of a size such as ``24GiB`` (1024^3 bytes each) or ``24GB`` (1000^3).

    Raises:
        ConfigError: It is not such a size.
    """
    match = _SIZE.fullmatch(size)
    if match is None:
        raise ConfigError(f"memory must be a number with KiB, MiB, GiB, TiB, KB, MB, GB or TB, got {size!r}")
    base = 1024 if "i" in match["unit"] else 1000
    return int(float(match["number"]) * base ** _POWER[match["unit"][0]])


def largest_batch(peak: Callable[[int], int], limit: int, start: int) -> int:
    """Return the largest batch whose peak is within a limit; 0 if one row is too much.

    Args:
        peak: The peak of a batch of so many rows: it grows with them, by about as much for each.
        limit: In bytes.
        start: A batch to begin with; the closer, the sooner.
    """
    fits, too_large = 0, 0  # the latter unknown as long as it is 0
    tried: list[tuple[int, int]] = []
    batch = start
    while True:
        tried.append((batch, peak(batch)))
        if tried[-1][1] <= limit:
            fits = batch
        else:
            too_large = batch
        if too_large == fits + 1:
            return fits
        if len(tried) == 1:
            batch = 2 * batch if fits else batch // 2
            continue
        (first, low), (second, high) = sorted(tried[-2:])
        slope = max(1.0, (high - low) / (second - first))
        guess = first + int((limit - low) / slope)
        if fits and guess == fits:
            guess += 1  # the line says that it is the largest: see
        batch = max(guess, fits + 1) if not too_large else min(max(guess, fits + 1), too_large - 1)
