"""How the gradient is estimated."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from zoft.errors import ConfigError

__all__ = ["ZOArguments"]


@dataclass
class ZOArguments:
    """How the gradient is estimated from forward passes."""

    _argument_group_name = "zeroth-order"

    zo_method: str = field(
        default="fzoo",
        metadata={
            "help": "The zeroth-order method (docs/methods.md); adamw or sgd: train by gradients, to compare with."
        },
    )
    zo_lr: Literal["auto", "given"] | None = field(
        default=None,
        metadata={
            "help": "auto: measure the step size, and follow it while training; learning_rate then does not matter, "
            "its schedule does. given: learning_rate is the step size. Default: given where learning_rate is set, "
            "where the method cannot measure it, and in private runs; else auto."
        },
    )
    zo_eps: float | None = field(
        default=None,
        metadata={
            "help": "Size of the perturbation: losses are taken at theta + zo_eps * z. "
            "Default: the method's published one; with zo_lr auto, measured."
        },
    )
    zo_num_queries: int | None = field(
        default=None, metadata={"help": "Random directions a step; default: the method's own."}
    )
    zo_seed: int | None = field(default=None, metadata={"help": "Seed of the random directions; default: --seed."})
    zo_distribution: str | None = field(
        default=None,
        metadata={"help": "Distribution of the directions: gaussian, rademacher, ...; default: the method's own."},
    )
    zo_shared_vector: str = field(
        default="batch",
        metadata={"help": "What shares a random direction: batch (each step has its own), window:N steps, or example."},
    )
    zo_placement: str = field(
        default="auto",
        metadata={
            "help": "Where perturbed weights live during a forward pass: auto, stream, snapshot, inplace, or batched "
            "(several points in one forward)."
        },
    )
    zo_include: list[str] = field(
        default_factory=list,
        metadata={"help": "Train only parameters whose name matches one of these patterns (* and ?)."},
    )
    zo_exclude: list[str] = field(
        default_factory=list,
        metadata={"help": "Do not train parameters whose name matches one of these patterns."},
    )
    zo_nonfinite: Literal["raise", "skip"] = field(
        default="raise", metadata={"help": "What to do when a loss is NaN or infinite."}
    )
    zo_scratch_mib: int = field(default=128, metadata={"help": "Scratch memory for perturbed weights, in MiB."})
    zo_batched_tokens: int = field(
        default=2048, metadata={"help": "Most tokens in one forward of --zo_placement batched, all points together."}
    )
    zo_query_parallel_size: int = field(
        default=1,
        metadata={
            "help": "With several processes: how many neighbouring ranks share a batch and split a step's queries; "
            "1: each has its own part of the batch."
        },
    )
    zo_replica_check_steps: int = field(
        default=100, metadata={"help": "With several processes: compare their weights every so many steps."}
    )
    zo_force: bool = field(
        default=False,
        metadata={"help": "Run even where zoft expects that nothing is learned (the message says why)."},
    )
    zo_method_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "The method's own options: a mapping in YAML, a JSON object on the command line."},
    )

    def __post_init__(self) -> None:
        if isinstance(self.zo_method_kwargs, str):
            try:
                self.zo_method_kwargs = json.loads(self.zo_method_kwargs)
            except json.JSONDecodeError as error:
                raise ConfigError(
                    f"zo_method_kwargs: expected a JSON object, got {self.zo_method_kwargs!r} ({error})"
                ) from None
        if self.zo_method_kwargs is not None and not isinstance(self.zo_method_kwargs, dict):
            raise ConfigError(f"zo_method_kwargs: expected a mapping, got {self.zo_method_kwargs!r}")

    @property
    def method_kwargs(self) -> dict[str, Any]:
        """The method's own options as a mapping, empty by default."""
        return dict(self.zo_method_kwargs) if isinstance(self.zo_method_kwargs, dict) else {}
