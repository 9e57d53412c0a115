"""What most updates have of state: nothing."""

from __future__ import annotations

from typing import Any


class Stateless:
    """``state_dict`` and ``load_state_dict`` of what keeps nothing between steps."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""
