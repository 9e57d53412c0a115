"""From measurements to a step size: how far the quadratic model carries, and when to be careful.

A step ``-lr G`` changes the loss by ``-lr (g . G) + lr^2 / 2 (G^T H G)``, so the lr that lowers its own batch's loss
most is ``g . G / G^T H G``. With one query it is about ``1 / tr H`` for MeZO, half of its mean-square stability bound
(arXiv 2604.14669). A step is taken along its own batch's noise, too: of its slope on that batch, another one confirms
a part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

# Standard errors above the mean up to which curvature is believed in. Where it has both signs, as in an adapter, the
# product of two factors, its sizes say too much of it, and its mean alone may be far below what a run will meet.
ERRORS = 2.0


@dataclass
class Curvature:
    """The curvature along steps, of unit length an element: an estimate of tr H.

    Attributes:
        total: Sum over measurements, older ones fading, of weight * curvature.
        square: Of weight * curvature^2.
        rounding: Of weight * its rounding^2.
        weight: Of the weights alone.
        weight_square: Of their squares.
    """

    total: float = 0.0
    square: float = 0.0
    rounding: float = 0.0
    weight: float = 0.0
    weight_square: float = 0.0

    def fade(self, keep: float) -> None:
        """Let what is known count for less."""
        self.total, self.square, self.weight = keep * self.total, keep * self.square, keep * self.weight
        self.rounding *= keep
        self.weight_square *= keep * keep

    def add(self, weight: float, mean: float, square: float, rounding: float, count: int = 1) -> None:
        """Take in measurements of one weight each.

        Args:
            weight: How much each counts.
            mean: Their mean.
            square: Mean of their squares.
            rounding: Of their rounding's.
            count: How many there are.
        """
        self.total += count * weight * mean
        self.square += count * weight * square
        self.rounding += count * weight * rounding
        self.weight += count * weight
        self.weight_square += count * weight * weight

    @property
    def bound(self) -> float:
        """How much there may well be: the mean, or 0 if that is below, and some standard errors; 0 if nothing is known.

        Not by the variance but by the mean square, so that it is positive whatever was measured.
        """
        if not self.weight:
            return 0.0
        error = math.sqrt((self.square + self.rounding) / self.weight * self.weight_square) / self.weight
        return max(0.0, self.total / self.weight) + ERRORS * error

    @property
    def size(self) -> float:
        """The Frobenius norm of H, whatever the signs of its eigenvalues; 0 if nothing is known.

        For Gaussian z, ``z^T H z`` has the variance ``2 ||H||_F^2``.
        """
        if not self.weight:
            return 0.0
        variance = (self.square - self.rounding) / self.weight - (self.total / self.weight) ** 2
        return math.sqrt(max(0.0, variance) / 2.0)


PARTS = tuple((number + 0.5) / 25.0 for number in range(25))  # that may be confirmed
# What is thought of each beforehand, half of a Cauchy distribution: most often it is little, but it may be much.
_PRIOR = tuple(1.0 / (1.0 + (part / 0.2) ** 2) for part in PARTS)
# Degrees of freedom of Student's t, since what is confirmed has heavy tails, like the curvature in it; and its squared
# scale as a part of the variance, with which it fits what is normally distributed best.
_TAILS, _SCALE = 4.0, 0.69


@dataclass
class Signal:
    """Which part of the slopes that steps have on their own batches another batch confirms.

    If a direction's slopes on two batches have correlation s and the variance 1, and steps saw slopes on their own
    batches whose squares sum to ``own``, then of that sum another batch confirms ``s own``, give or take
    ``sqrt((1 - s^2) own)``.

    Attributes:
        evidence: The log-likelihood of each of :data:`PARTS`, older checks fading.
    """

    evidence: list[float] = field(default_factory=lambda: [0.0] * len(PARTS))

    def add(self, own: float, confirmed: float, keep: float) -> None:
        """Let what is known count for less, and take in more."""
        for number, part in enumerate(PARTS):
            scale = _SCALE * (1.0 - part * part) * own
            apart = (confirmed - part * own) ** 2 / scale
            likelihood = -0.5 * math.log(scale) - 0.5 * (_TAILS + 1.0) * math.log1p(apart / _TAILS)
            self.evidence[number] = keep * self.evidence[number] + likelihood

    @property
    def share(self) -> float:
        """The part to be expected, in (0, 1): a step size that is proportional to it gains most on average."""
        most = max(self.evidence)
        weights = [prior * math.exp(e - most) for prior, e in zip(_PRIOR, self.evidence, strict=True)]
        return math.fsum(w * part for w, part in zip(weights, PARTS, strict=True)) / math.fsum(weights)


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
