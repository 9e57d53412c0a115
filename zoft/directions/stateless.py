"""What most directions have of state: nothing that a checkpoint's weights would not give."""

from __future__ import annotations

from typing import Any, TypeVar

import torch

T = TypeVar("T")


class Stateless:
    """``state_dict`` and ``with_state`` of directions that keep nothing; see :class:`zoft.directions.Directions`."""

    def state_size(self, shape: torch.Size) -> int:
        """Nothing."""
        return 0

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def with_state(self: T, state: dict[str, Any]) -> T:
        """The same."""
        return self
