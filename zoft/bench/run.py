"""One training run of a benchmark: everything that defines it, and the name that follows from that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

FORMAT = 1  # part of every name: raise it when the same description would come to mean another run

Stage = Literal["tuning", "final"]


@dataclass(frozen=True)
class Run:
    """What is trained, how, and for how long.

    Attributes:
        problem: The problem's name in the suite.
        task: Its kind and options, as in the suite.
        method: The method's name in the suite.
        optimiser: What that is: a registered zeroth-order method or a baseline.
        options: Options of the optimiser.
        lr: Learning rate; None where the method finds its own step length.
        lr_factor: ``lr`` as a multiple of the tuned one; 1 while tuning.
        seed: Of everything random: initial weights, label noise, order of the batches, directions.
        stage: ``tuning`` runs are scored on the dev split alone.
        budget_forwards: Forwards that may be spent; see :class:`zoft.bench.objective.Objective`.
        evaluations: Points of the dev curve, beside the start.
        device: Where it trains.
    """

    problem: str
    task: Mapping[str, Any]
    method: str
    optimiser: str
    options: Mapping[str, Any]
    lr: float | None
    lr_factor: float
    seed: int
    stage: Stage
    budget_forwards: int
    evaluations: int
    device: str

    @property
    def id(self) -> str:
        """Sixteen hex digits, the same for the same run on any machine."""
        text = json.dumps([FORMAT, asdict(self)], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        lr = "" if self.lr is None else f", lr {self.lr:.3g}"
        return f"{self.method} on {self.problem}{lr}, seed {self.seed} ({self.stage})"
