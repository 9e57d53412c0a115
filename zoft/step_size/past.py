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
        lr: How far it went; 0 until it is known, and while no step size is chosen.
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
    """Steps that follow one another up to the present weights; before any moved, as if all had gone equally far.

    Attributes:
        steps: The last one at the end.
    """

    steps: list[PastStep] = field(default_factory=list)

    def add(self, step: PastStep) -> None:
        """Take in the present step, and forget the earliest ones beyond :data:`MOST_TERMS`."""
        self.steps.append(step)
        while len(self.steps) > 1 and self.num_terms > MOST_TERMS:
            del self.steps[0]

    def last_of(self, step: int) -> PastStep | None:
        """Return the last step if that is its number, else None: what does not move is not taken in."""
        last = self.steps[-1] if self.steps else None
        return last if last is not None and last.terms[0][0] == step else None

    def went(self, lr: float) -> None:
        """Say how far the last step goes; if it is the first that moves, those before are forgotten."""
        self.steps[-1].lr = lr
        if lr and not self.steps[0].lr:
            del self.steps[:-1]

    @property
    def num_terms(self) -> int:
        """How many directions the steps went along."""
        return sum(len(step.terms) for step in self.steps)

    @property
    def has_moved(self) -> bool:
        """Whether these steps changed the weights."""
        return any(step.lr for step in self.steps)

    @property
    def lrs(self) -> list[float]:
        """The steps' learning rates, or ones."""
        return [step.lr if self.has_moved else 1.0 for step in self.steps]

    @property
    def square(self) -> float:
        """The squared distance of an element from where it was, for directions that are independent."""
        return math.fsum((lr * step.length) ** 2 for lr, step in zip(self.lrs, self.steps, strict=True))

    @property
    def gain(self) -> float:
        """What the steps gain to first order, each on its own batch."""
        return math.fsum(lr * step.gain for lr, step in zip(self.lrs, self.steps, strict=True))

    def stretch(self, zo_eps: float) -> float:
        """Return by how much farther back than the weights were one must look, so that the loss differs."""
        least = zo_eps / math.sqrt(self.square)
        return max(1.0, least) if self.has_moved else least

    def back(self, zo_eps: float) -> tuple[Term, ...]:
        """Return the offset to where the weights were, stretched."""
        stretch = self.stretch(zo_eps)
        return tuple(
            Term(number, query, stretch * lr * coefficient)
            for lr, step in zip(self.lrs, self.steps, strict=True)
            for number, query, coefficient in step.terms
        )

    def confirmed(self, gained: float, curvature: float, zo_eps: float) -> float:
        """Return what the steps gain to first order on a batch that they had not seen.

        Args:
            gained: That batch's loss at :meth:`back` less that at the present weights, over :meth:`stretch`.
            curvature: Along directions of unit length an element, on average.
            zo_eps: See :meth:`stretch`.
        """
        # D the way back, s the stretch: gained = g . D + s/2 D^T H D, g the gradient here. Where each step began, the
        # gradient was another one, which adds D^T H D in all.
        return gained + (float(self.has_moved) - self.stretch(zo_eps) / 2.0) * curvature * self.square
