"""What most directions do for both signs: all of it twice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from zoft.noise import Span, Term, negated


class TwoPasses(ABC):
    """``combine_both`` of directions that make nothing once for both signs; see :class:`zoft.directions.Directions`."""

    @abstractmethod
    def combine(self, spans: Sequence[Span], terms: Sequence[Term]) -> None:
        """See :class:`zoft.directions.Directions`."""

    def combine_both(self, spans: Sequence[Span], mirrors: Sequence[torch.Tensor], terms: Sequence[Term]) -> None:
        """See :class:`zoft.directions.Directions`."""
        self.combine(spans, terms)
        mirrored = [span._replace(out=mirror) for span, mirror in zip(spans, mirrors, strict=True)]
        self.combine(mirrored, negated(terms))
