"""What an audit found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Bound:
    """A promise, and the least that is true of it.

    Attributes:
        delta: Where epsilon is compared; 0 for pure epsilon.
        claimed: The accountant's epsilon.
        measured: A lower bound on epsilon, from what was seen.
        statistic: By what the canary's presence was guessed, of :data:`zoft.privacy.audit.scores.STATISTICS`.
    """

    delta: float
    claimed: float
    measured: float
    statistic: str

    @property
    def is_violation(self) -> bool:
        """Whether more was learned than was promised."""
        return self.measured > self.claimed

    def __str__(self) -> str:
        says = "VIOLATION" if self.is_violation else "consistent"
        return f"at delta {self.delta:g}: measured >= {self.measured:.4g}, claimed {self.claimed:.4g}: {says}"


@dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    Attributes:
        subject: What was audited.
        repetitions: How often it ran with the canary, and as often without it.
        confidence: A promise that holds is called a violation with a probability of at most one minus this.
        bounds: The first is at the promised delta.
    """

    subject: str
    repetitions: int
    confidence: float
    bounds: tuple[Bound, ...]

    @property
    def claimed(self) -> float:
        """Epsilon at the promised delta, by the accountant."""
        return self.bounds[0].claimed

    @property
    def measured(self) -> float:
        """A lower bound on epsilon at the promised delta."""
        return self.bounds[0].measured

    @property
    def is_violation(self) -> bool:
        """Whether more was learned than was promised, at any delta."""
        return any(bound.is_violation for bound in self.bounds)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "is_violation": self.is_violation}

    def __str__(self) -> str:
        head = f"{self.subject}: {self.repetitions} times with the canary and without, confidence {self.confidence:g}"
        return "\n".join([head, *(f"  epsilon {bound}" for bound in self.bounds)])
