"""The seam between scalars and weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from zoft.noise import Term


class Update(Protocol):
    """Turns the scalars of a step into the gradient estimate ``g = sum coefficient * z``."""

    def gradient(self, step: int, scalars: Sequence[float]) -> list[Term]:
        """Return g for this step. Called once a step, in order, also in replay; may keep scalar state."""

    def state_dict(self) -> dict[str, Any]:
        """Return the scalar state as plain JSON types."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
