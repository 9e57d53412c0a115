"""What most directions are not: of low rank."""

from __future__ import annotations

from collections.abc import Sequence

from zoft.noise import Term


class Unfactored:
    """``factored`` of directions without factors; see :class:`zoft.directions.Directions`."""

    def factored(self, parameter: int, terms: Sequence[Term]) -> None:
        """There are none."""
        return None
