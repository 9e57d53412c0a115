"""What is shown while a run goes on."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch


class StepMeter:
    """Collects between two log lines; reading starts the next interval."""

    def __init__(self) -> None:
        self.start(0.0)

    def start(self, now: float) -> None:
        """Begin an interval at ``now`` (seconds of ``time.perf_counter``)."""
        self._since = now
        self._tokens, self._places = 0, 0  # places: with padding
        self._squares: list[float] = []

    def count_tokens(self, inputs: Mapping[str, Any]) -> None:
        """Count one micro-batch's tokens, without padding where there is a mask."""
        mask, ids = inputs.get("attention_mask"), inputs.get("input_ids")
        if isinstance(mask, torch.Tensor):
            self._tokens += int(mask.sum())
            self._places += mask.numel()
        elif isinstance(ids, torch.Tensor):
            self._tokens += ids.numel()

    def count_step(self, projected_grads: Sequence[float]) -> None:
        """Note one step's projected gradients."""
        self._squares.extend(p * p for p in projected_grads)

    def read(self) -> dict[str, float]:
        """Return this interval's figures.

        Returns:
            ``projected_grad``: root mean square over the interval's steps and queries, in loss per unit z;
            ``tokens_per_second``: of training batches, each counted once however many forwards it takes;
            ``padding_share``: of what the model reads, how much is padding, where batches have a mask;
            ``peak_memory_gib``: of the device if it is a GPU, else of the process.
        """
        now = time.perf_counter()
        figures = {"peak_memory_gib": round(peak_memory_bytes() / 2**30, 3)}
        if self._squares:
            figures["projected_grad"] = math.sqrt(sum(self._squares) / len(self._squares))
        if self._tokens:
            figures["tokens_per_second"] = round(self._tokens / (now - self._since), 1)
        if self._places:
            figures["padding_share"] = round(1 - self._tokens / self._places, 3)
        self.start(now)
        return figures


def peak_memory_bytes() -> int:
    """Return the largest memory used so far: allocated on the GPU, or resident in RAM."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
