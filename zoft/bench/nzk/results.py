"""What the experiments take and give, as plain values that JSON can hold."""

from __future__ import annotations

from dataclasses import dataclass

from zoft.analysis.nzk import rule_named
from zoft.errors import ConfigError

__all__ = ["CHUNK", "Acceleration", "Curve", "Drift", "KernelCheck", "Result", "Settings"]

CHUNK = 256  # directions evaluated at once


@dataclass(frozen=True)
class Settings:
    """What an experiment takes beside data and model.

    Attributes:
        iterations: Steps of training, >= 1.
        num_runs: Seeds over which training is averaged, >= 1.
        num_draws: Draws for the kernel checks, >= 256.
        rules: Names in :data:`zoft.analysis.nzk.RULES`; ``mezo`` and ``nzk_shared`` among them.
        seed: The first run's; it also decides the initial weights.

    Raises:
        ConfigError: If one is out of range.
    """

    iterations: int
    num_runs: int
    num_draws: int
    rules: tuple[str, ...]
    seed: int

    def __post_init__(self) -> None:
        for name, least in (("iterations", 1), ("num_runs", 1), ("num_draws", CHUNK), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be an integer >= {least}, got {getattr(self, name)}.")
        for rule in self.rules:
            rule_named(rule)
        if not {"mezo", "nzk_shared"} <= {*self.rules}:
            raise ConfigError(f"rules must hold mezo and nzk_shared, which are compared; got {' '.join(self.rules)}.")


@dataclass(frozen=True)
class KernelCheck:
    """A kernel's average over draws against its closed form, after more and more draws.

    Attributes:
        kind: One of :data:`zoft.analysis.nzk.KINDS`.
        distribution: ``"gaussian"`` or ``"rademacher"``.
        draws: Numbers of draws.
        errors: For each, the Frobenius norm of the difference over that of the closed form.
        factor: By what the tangent kernel is multiplied, fitted to all draws.
        expected_factor: The same in the closed form.
    """

    kind: str
    distribution: str
    draws: list[int]
    errors: list[float]
    factor: float
    expected_factor: float


@dataclass(frozen=True)
class Curve:
    """The loss of one rule at one step size.

    Attributes:
        rule: A name in :data:`zoft.analysis.nzk.RULES`.
        trained: The model, or ``"linearised mlp"``.
        step_size: ``"equal"`` or ``"tuned"``.
        lr: The learning rate.
        steps: Steps taken.
        measured: Loss after them, the mean over runs.
        expected: The closed form's.
        deviation: Mean of ``|measured / expected - 1|`` over the steps.
    """

    rule: str
    trained: str
    step_size: str
    lr: float
    steps: list[int]
    measured: list[float]
    expected: list[float]
    deviation: float


@dataclass(frozen=True)
class Acceleration:
    """How many times as many steps ``slow`` takes to the lowest loss that both reach, above the floor.

    Attributes:
        fast: A rule.
        slow: Another.
        step_size: ``"equal"`` or ``"tuned"``.
        expected: By the closed forms; None if there is no such loss but the first.
        measured: In training; likewise.
    """

    fast: str
    slow: str
    step_size: str
    expected: float | None
    measured: float | None


@dataclass(frozen=True)
class Drift:
    """How far the kernel moves from the first one as training goes (``shared``, the same draws each time).

    Attributes:
        trained: The model, or ``"linearised mlp"``.
        steps: Steps taken, by ``mezo`` at its tuned step size.
        change: Frobenius norm of the change over that of the first kernel.
    """

    trained: str
    steps: list[int]
    change: list[float]


@dataclass(frozen=True)
class Result:
    """All figures of one data set and model.

    Attributes:
        dataset: Its name.
        model: Its name.
        num_examples: n.
        dimension: Trained weights, d.
        floor: The loss that no step can lower (that of the linearisation, for a network).
        kernels: One for each kind and distribution.
        curves: One for each rule and step size, and the linearisation's.
        accelerations: By sharing z.
        drifts: One for the model and one for its linearisation.
    """

    dataset: str
    model: str
    num_examples: int
    dimension: int
    floor: float
    kernels: list[KernelCheck]
    curves: list[Curve]
    accelerations: list[Acceleration]
    drifts: list[Drift]
