"""What a loss evaluated at moved weights is: one number."""

from __future__ import annotations

import torch


class Evaluated:
    """``read`` of placements that move weights; see :class:`zoft.placement.Placement`."""

    num_values = 1

    def read(self, loss: torch.Tensor) -> tuple[float, ...]:
        """The loss."""
        return (float(loss),)
