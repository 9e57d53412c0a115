"""The values that travel between floors: the configuration, an estimate, a step's record."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from zoft.errors import ConfigError

if TYPE_CHECKING:
    import torch

LossFn = Callable[[], "torch.Tensor"]
"""A closure that runs one forward pass and returns the scalar mean loss."""

PLACEMENTS = ("auto", "stream", "snapshot", "inplace", "batched")
_WINDOW = re.compile(r"window:[1-9]\d*")
NONFINITE_POLICIES = ("raise", "skip")
NUM_PROBES = 3  # length of StepRecord.probe where the step size is chosen


@dataclass(frozen=True)
class ZOConfig:
    """What defines a zeroth-order run, beside the learning rate.

    Attributes:
        method: A name in ``zoft.registry.method_names()``.
        zo_lr: ``"auto"``: the step size is measured, learning rates are relative to it (docs/step-size.md).
            ``None``: learning rates are taken as they are.
        zo_eps: Perturbation scale, > 0. ``None``: the method's published default; with ``zo_lr="auto"``, measured.
        num_queries: Directions a step, q >= 1. ``None``: the method's default.
        seed: Any integer in ``[0, 2**64)``; it fixes every direction of the run.
        distribution: ``"gaussian"`` or ``"rademacher"``. ``None``: the method's default.
        shared_vector: What shares a direction: ``"batch"``, all examples of a step, the next step has another;
            ``"window:N"``, all examples of N steps, N >= 1; ``"example"``, nothing: each example of a step has its own,
            and ``num_queries`` is the most examples that a step may have.
        placement: Where theta + eps z lives during a forward: one of :data:`PLACEMENTS`.
        include: Patterns (``fnmatch``) of parameter names to train; empty means all that require a gradient.
        exclude: Patterns of parameter names to leave alone; wins over ``include``.
        nonfinite: What a NaN or infinite loss does: ``"raise"`` stops the run, ``"skip"`` drops the step.
        scratch_mib: Upper bound, in MiB, of the scratch that ``stream`` uses for one matrix, on a GPU for as much of
            a layer as fits, and there at least a 32nd of the trained weights; ``batched`` may take up to a sixteenth of
            the model for copies of trained weights at all points.
        batched_tokens: Most tokens (rows times length) that ``batched`` holds in one forward, over all points together.
        query_parallel_size: With several processes: how many neighbouring ranks share a batch and split a
            step's queries; 1 is data-parallel, the number of processes is query-parallel.
        replica_check_steps: With several processes: compare their weights every so many steps, and at the start.
        force: Allow ``inplace`` on 16-bit weights, which it cannot restore exactly.
        method_kwargs: Options of the method's own.
    """

    method: str = "fzoo"
    zo_lr: str | None = None
    zo_eps: float | None = None
    num_queries: int | None = None
    seed: int = 0
    distribution: str | None = None
    shared_vector: str = "batch"
    placement: str = "auto"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    nonfinite: str = "raise"
    scratch_mib: int = 128
    batched_tokens: int = 2048
    query_parallel_size: int = 1
    replica_check_steps: int = 100
    force: bool = False
    method_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("include", "exclude"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ConfigError(f"{name} must be a sequence of patterns, got the string {value!r}.")
            object.__setattr__(self, name, tuple(value))
        object.__setattr__(self, "method_kwargs", MappingProxyType(dict(self.method_kwargs)))
        if self.zo_lr not in (None, "auto"):
            raise ConfigError(
                f"zo_lr must be 'auto' or None, got {self.zo_lr!r}. A number is the optimizer's learning rate: lr, or "
                "learning_rate among Hugging Face's arguments."
            )
        if self.zo_eps is not None and not (_is_number(self.zo_eps) and 0 < self.zo_eps < math.inf):
            raise ConfigError(f"zo_eps must be a finite number > 0, got {self.zo_eps!r}.")
        if self.num_queries is not None and not _is_count(self.num_queries):
            raise ConfigError(f"num_queries must be an integer >= 1, got {self.num_queries!r}.")
        if self.shared_vector not in ("batch", "example") and not _WINDOW.fullmatch(str(self.shared_vector)):
            raise ConfigError(
                f"shared_vector must be 'batch', 'example' or 'window:N' with N >= 1, such as 'window:10', got "
                f"{self.shared_vector!r}."
            )
        for name in ("scratch_mib", "batched_tokens", "query_parallel_size", "replica_check_steps"):
            if not _is_count(getattr(self, name)):
                raise ConfigError(f"{name} must be an integer >= 1, got {getattr(self, name)!r}.")
        if not isinstance(self.force, bool):
            raise ConfigError(f"force must be True or False, got {self.force!r}.")
        for name, allowed in (("placement", PLACEMENTS), ("nonfinite", NONFINITE_POLICIES)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}.")

    @property
    def window(self) -> int:
        """Steps that share their directions."""
        return int(self.shared_vector.partition(":")[2] or 1)

    @staticmethod
    def of(config: object) -> ZOConfig:
        """Return a configuration as it is, or the default for None.

        Raises:
            ConfigError: If it is anything else, such as a method's name or a dict.
        """
        if config is None:
            return ZOConfig()
        if isinstance(config, ZOConfig):
            return config
        meant = {"str": "ZOConfig(method=...)", "dict": "ZOConfig(**...)"}.get(type(config).__name__, "ZOConfig(...)")
        raise ConfigError(f"the configuration must be a ZOConfig, got {config!r:.60}; write {meant}.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            **values,
            "include": list(self.include),
            "exclude": list(self.exclude),
            "method_kwargs": dict(self.method_kwargs),
        }


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


@dataclass(frozen=True)
class Estimate:
    """What one evaluation of a (micro-)batch yields. Everything in it is linear in the losses.

    Attributes:
        loss: The loss at theta: the clean loss, or the mean of both signs where no clean loss is taken.
        scalars: The method's scalars (projected gradients, curvatures, plain losses), in the loss's units
            per unit of z.
    """

    loss: float
    scalars: tuple[float, ...]


@dataclass(frozen=True)
class StepRecord:
    """All that a step is: enough to repeat its update bit for bit on the same weights.

    Floats are float32 values held as Python floats, because that is what the log stores.

    Attributes:
        step: Step number from 0.
        loss: Loss at theta on the step's batch.
        scalars: The method's summed scalars.
        lrs: Learning rate of each parameter group.
        skipped: The step was dropped (non-finite loss); the weights did not move.
        probe: With ``zo_lr="auto"``: zo_eps from the next step on, how much higher the batch's loss is at earlier
            weights, and its curvature along the last step's direction of unit length an element, zeros where they were
            not measured; at the start the root mean square and the mean of curvatures; in the step that measures
            zo_eps, the loss's noise, and how far slopes stay the same. Else empty.
    """

    step: int
    loss: float
    scalars: tuple[float, ...]
    lrs: tuple[float, ...]
    skipped: bool = False
    probe: tuple[float, ...] = ()
