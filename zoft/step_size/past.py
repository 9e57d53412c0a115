"""The last steps, whose gain a batch that they had not seen is asked for.

To first order a step -lr G lowers its own batch's loss by lr (g . G), g that batch's gradient. Another batch confirms a
part of it; what is left of that part is the noise of batches, which averages out only over many steps. So a check looks
back over several steps at once, by one evaluation where the weights were before them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from zoft.noise import Term

MOST_TERMS = 16  # directions that a look back may need to make again


@dataclass
class PastStep:
    """A step that was taken.

    Attributes:
        terms: Its gradient estimate, as (step, query, coefficient).
        length: Of that estimate, an element.
        gain: What it gains to first order for each unit of lr, as its own batch saw it.
        lr: How far it went; 0 until it is known.
    """

    terms: list[tuple[int, int, float]]
    length: float
    gain: float
    lr: float = 0.0

    @property
    def moved(self) -> float:
        """How far an element went."""
        return self.lr * self.length

    def along(self, distance: float) -> tuple[Term, ...]:
        """Return the offset of so much an element along the estimate."""
        return tuple(Term(step, query, distance / self.length * c) for step, query, c in self.terms)


@dataclass
class Past:
    """Steps that moved, up to the present weights.

    Attributes:
        steps: The last one at the end.
    """

    steps: list[PastStep] = field(default_factory=list)

    def add(self, step: PastStep) -> None:
        """Take in the present step, and forget the earliest ones beyond :data:`MOST_TERMS`."""
        self.steps.append(step)
        while len(self.steps) > 1 and self.num_terms > MOST_TERMS:
            del self.steps[0]

    def went(self, step: int, lr: float) -> None:
        """Say how far that step goes; it is forgotten if it does not move, and nothing is done if it was not added."""
        if self.steps and self.steps[-1].terms[0][0] == step:
            self.steps[-1].lr = lr
            if not lr:
                del self.steps[-1]

    @property
    def num_terms(self) -> int:
        """How many directions the steps went along."""
        return sum(len(step.terms) for step in self.steps)

    @property
    def square(self) -> float:
        """The squared distance of an element from where it was, for directions that are independent."""
        return math.fsum(step.moved**2 for step in self.steps)

    @property
    def gain(self) -> float:
        """What the steps gain to first order, each on its own batch."""
        return math.fsum(step.lr * step.gain for step in self.steps)

    def stretch(self, zo_eps: float) -> float:
        """Return by how much farther back than the weights were one must look, so that the loss differs."""
        return max(1.0, zo_eps / math.sqrt(self.square))

    def back(self, zo_eps: float) -> tuple[Term, ...]:
        """Return the offset to where the weights were, stretched."""
        stretch = self.stretch(zo_eps)
        return tuple(
            Term(number, query, stretch * step.lr * coefficient)
            for step in self.steps
            for number, query, coefficient in step.terms
        )

    def confirmed(self, gained: float, along_last: float, curvature: float, zo_eps: float) -> float:
        """Return what the steps gain to first order on a batch that they had not seen.

        Args:
            gained: That batch's loss at :meth:`back` less that at the present weights, over :meth:`stretch`; of a
                single step, how much it gains to first order at the present weights.
            along_last: Curvature along the last step, on that batch.
            curvature: Along directions of unit length an element, on average.
            zo_eps: See :meth:`stretch`.
        """
        # D the way back, s the stretch, g the gradient here: gained = g . D + s/2 D^T H D; of a single step g . D.
        # Where each step began, the gradient was another one, which adds D^T H D in all.
        if len(self.steps) == 1:
            return gained + along_last * self.square
        return gained + (1.0 - self.stretch(zo_eps) / 2.0) * curvature * self.square
