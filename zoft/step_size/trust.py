"""From measurements to a step size: how far the quadratic model carries, and when to be careful.

A step ``-lr G`` changes the loss by ``-lr (g . G) + lr^2 / 2 (G^T H G)``, so the lr that lowers its own batch's loss
most is ``g . G / G^T H G``. With one query it is about ``1 / tr H`` for MeZO, half of its mean-square stability bound
(arXiv 2604.14669). A step is taken along its own batch's noise, too: of its slope on that batch, another one confirms
a part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Curvature:
    """The mean curvature along steps, of unit length an element: an estimate of tr H. Long steps count for more.

    Attributes:
        cost: Sum over checks, older ones fading, of the steps' length^2 * curvature.
        weight: Of length^2.
    """

    cost: float = 0.0
    weight: float = 0.0

    def fade(self, keep: float) -> None:
        """Let what is known count for less."""
        self.cost, self.weight = keep * self.cost, keep * self.weight

    def add(self, length: float, curvature: float) -> None:
        """Take in one step: its length, and the curvature along it."""
        self.cost += length * length * curvature
        self.weight += length * length

    @property
    def mean(self) -> float:
        """The mean; 0 while nothing is known."""
        return self.cost / self.weight if self.weight else 0.0


@dataclass
class Signal:
    """Which part of the slopes that steps have on their own batches another batch confirms.

    Attributes:
        own: Sum over past steps, older ones fading, of what they gain to first order, as their own batches saw it.
        confirmed: The same as another batch sees it.
    """

    own: float = 0.0
    confirmed: float = 0.0

    def add(self, own: float, confirmed: float, keep: float) -> None:
        """Let what is known count for less, and take in more."""
        self.own, self.confirmed = keep * self.own + own, keep * self.confirmed + confirmed

    def share(self, expected: float, weight: float) -> float:
        """Return the part, in [0, 1], as if steps of that ``weight`` had been seen with the ``expected`` one before.

        Where that is more: what was seen, less two standard errors. Of one direction that is about 1, its own slope.
        """
        cautious = (self.confirmed + expected * weight) / (self.own + weight)
        sure = (self.confirmed - 2.0 * math.sqrt(self.own)) / self.own if self.own else 0.0
        return min(1.0, max(0.0, cautious, sure))


# Loss statistics: what a step leaves of the slow and the fast mean, the steps until they mean something, and the rise
# of the fast mean over its lowest value, in standard deviations of the loss, that is an alarm.
SLOW, FAST, WARMUP, RISE = 0.95, 0.8, 10, 3.0
STILL = 1e-3  # the least standard deviation, as a part of the loss


@dataclass
class Watch:
    """Running statistics of the training loss, which tell a rise from its spread.

    Attributes:
        mean: Slow running mean.
        variance: Of the loss about it.
        recent: Fast running mean.
        lowest: The smallest ``recent`` since the last alarm.
        count: Steps seen.
    """

    mean: float = 0.0
    variance: float = 0.0
    recent: float = 0.0
    lowest: float = math.inf
    count: int = 0

    def alarm(self, loss: float) -> bool:
        """Take in a loss; return whether the recent ones rose out of their spread. They are then the new normal."""
        if self.count == 0:
            self.mean = self.recent = loss
        self.count += 1
        apart = loss - self.mean
        spread = max(math.sqrt(self.variance), STILL * abs(self.mean))
        if self.count > WARMUP:  # a jump is not to hide in the spread that it makes
            apart = min(apart, RISE * spread)
        self.mean += (1.0 - SLOW) * apart
        self.variance = SLOW * (self.variance + (1.0 - SLOW) * apart * apart)
        self.recent += (1.0 - FAST) * (loss - self.recent)
        if self.count <= WARMUP:
            return False
        self.lowest = min(self.lowest, self.recent)
        if self.recent <= self.lowest + RISE * spread:
            return False
        self.lowest = self.recent
        return True


def clipped(length: float, square: float, most: float) -> float:
    """Return a length, at most ``most`` root mean squares of earlier ones, if there are any."""
    return min(length, most * math.sqrt(square)) if square else length
