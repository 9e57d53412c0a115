"""The mean over queries of projected gradient times direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoft.noise import Term


class Average:
    """``g = (1/q) sum_k projected_grad_k z_k``."""

    def gradient(self, step: int, scalars: Sequence[float]) -> list[Term]:
        """See :class:`zoft.updates.Update`."""
        return [Term(step, k, scalar / len(scalars)) for k, scalar in enumerate(scalars)]

    def state_dict(self) -> dict[str, Any]:
        """Stateless."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stateless."""
