"""The seam between the optimizer and how a step's record comes from the losses of micro-batches and processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from zoft.types import StepRecord


class Gathering(Protocol):
    """Gathers the present step's scalars, and makes its record."""

    def note(self, closure: Any) -> torch.Tensor:
        """Evaluate one micro-batch; return what stands for its loss, ready for ``backward()``."""

    def shown(self, record: StepRecord) -> torch.Tensor:
        """Return what stands for the loss of a micro-batch of a step that need not be evaluated, likewise."""

    def record(self, closure: Any, lrs: Sequence[float]) -> StepRecord:
        """Make the record of the step, from a closure or, if it is None, from what was noted.

        Raises:
            ConfigError: If nothing was noted.
        """

    def forget(self) -> None:
        """Forget what was noted since the last step."""
