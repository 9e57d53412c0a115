"""The declarative suite: problems x methods x learning rates x seeds, expanded into runs.

Fields are the keys of a recipe and, on the command line, flags. This module imports no torch until a suite is
checked, so that ``--help`` stays quick.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoft.bench.run import Run, Stage
from zoft.errors import ConfigError, did_you_mean

ALL = "all"

_FILE_NAME = re.compile(r"[\w-][\w.-]*")


@dataclass
class Suite:
    """What is compared, and under which rules."""

    _argument_group_name = "suite"

    name: str = field(default="bench", metadata={"help": "Names the default output_dir, bench-NAME."})
    problems: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Recipe only: each problem's name, with its kind and options."}
    )
    methods: list[str] = field(
        default_factory=lambda: [ALL],
        metadata={"help": "Names of methods, baselines or settings; all: every method and every baseline."},
    )
    settings: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Recipe only: by name, what a method gets beyond its defaults: options, lr_centre, method."},
    )
    settings_on: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Recipe only: by problem, settings that hold there alone, over the others."}
    )
    without: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Recipe only: by problem, methods that are not run on it."}
    )
    reference: str = field(default="mezo", metadata={"help": "The method that all others are compared with."})
    budget_forwards: int = field(default=1000, metadata={"help": "Forwards a run may spend, one for each batch."})
    evaluations: int = field(default=10, metadata={"help": "Points of each run's curve on the dev split."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of the runs that count."})
    tuning_seed: int = field(default=1000, metadata={"help": "Seed of the runs that choose learning rates."})
    lr_centre: float = field(default=1e-2, metadata={"help": "Middle of the grid of learning rates."})
    lr_ratio: float = field(default=4.0, metadata={"help": "Ratio of neighbours in the grid, > 1."})
    lr_points: int = field(default=5, metadata={"help": "Learning rates in the grid, odd."})
    lr_max_extensions: int = field(
        default=6, metadata={"help": "How often a grid grows by a point where its best is at an end."}
    )
    lr_sensitivity: list[float] = field(
        default_factory=lambda: [0.5, 2.0, 4.0],
        metadata={"help": "Multiples of the best learning rate to run as well."},
    )
    zo_placement: str = field(
        default="auto", metadata={"help": "Placement of the zeroth-order methods; changes time and memory alone."}
    )
    device: str = field(default="cpu", metadata={"help": "Where to train: cpu, cuda."})

    def check(self) -> None:
        """Check all that can be checked without running.

        Raises:
            ConfigError: If a setting is unknown or out of range; the message names it.
        """
        from zoft.bench.optimisers import make_optimiser
        from zoft.bench.problems import make_task

        for key in ("budget_forwards", "evaluations"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key} must be an integer >= 1, got {getattr(self, key)!r}.")
        if self.lr_points < 3 or self.lr_points % 2 == 0:
            raise ConfigError(f"lr_points must be odd and >= 3, for a middle and two ends, got {self.lr_points}.")
        if self.lr_max_extensions < 0:
            raise ConfigError(f"lr_max_extensions must be >= 0, got {self.lr_max_extensions}.")
        if not 1.0 < self.lr_ratio < math.inf:
            raise ConfigError(f"lr_ratio must be a number > 1, got {self.lr_ratio!r}.")
        if 1.0 in self.lr_sensitivity or not all(0.0 < factor < math.inf for factor in self.lr_sensitivity):
            raise ConfigError(
                f"lr_sensitivity must hold numbers > 0 other than 1, which is always run, got {self.lr_sensitivity}."
            )
        if not self.seeds:
            raise ConfigError("seeds must hold at least one integer.")
        for key in ("seeds", "lr_sensitivity"):
            if len(set(getattr(self, key))) < len(getattr(self, key)):
                raise ConfigError(f"{key} must be different numbers, got {getattr(self, key)}.")
        for seed in (*self.seeds, self.tuning_seed):
            if not 0 <= seed < 2**63:
                raise ConfigError(f"seeds and tuning_seed must be in [0, 2**63), got {seed}.")
        if self.tuning_seed in self.seeds:
            raise ConfigError(f"tuning_seed {self.tuning_seed} must not be among seeds, which would then be tuned for.")
        if not _mapping(self.problems, "problems"):
            raise ConfigError("problems: expected at least one problem, got none; see recipes/bench/small.yaml.")
        _check_device(self.device)
        for problem in self.problem_names:
            if not _FILE_NAME.fullmatch(problem):
                raise ConfigError(
                    f"problems: {problem!r} also names a file: use letters, digits, '-', '_' and '.' alone."
                )
            make_task(self.task(problem), f"problems: {problem}")
        for problem, settings in _mapping(self.settings_on, "settings_on").items():
            self._check_problem(problem, "settings_on")
            for method in _mapping(settings, f"settings_on: {problem}"):
                self._check_method(method, f"settings_on: {problem}")
        for problem in self.problem_names:
            here = _mapping(self.settings_on, "settings_on").get(problem)
            given = {"settings": _mapping(self.settings, "settings"), f"settings_on: {problem}": here or {}}
            for method in dict.fromkeys((*itertools.chain(*given.values()), *self.method_names)):
                said = " or ".join(name for name, settings in given.items() if method in settings)
                where = f"{said or 'methods'}: {method}"
                make_optimiser(self.optimiser(method, problem), self.options(method, problem), where)
                self.centre(method, problem)
        for problem, names in _mapping(self.without, "without").items():
            self._check_problem(problem, "without")
            for name in _names(names):
                self._check_method(name, f"without: {problem}")
        if self.reference not in self.method_names:
            raise ConfigError(
                f"reference {self.reference!r} is not among the methods."
                f"{did_you_mean(self.reference, self.method_names)}"
            )

    def _check_problem(self, name: str, where: str) -> None:
        if name not in self.problem_names:
            raise ConfigError(f"{where}: there is no problem {name!r}.{did_you_mean(name, self.problem_names)}")

    def _check_method(self, name: str, where: str) -> None:
        from zoft.bench.optimisers import optimiser_names

        # Also one that is not run, as a recipe says more than a command line's --methods.
        known = (*self.method_names, *_mapping(self.settings, "settings"), *optimiser_names())
        if name not in known:
            raise ConfigError(f"{where}: there is no method {name!r}.{did_you_mean(name, known)}")

    @property
    def problem_names(self) -> tuple[str, ...]:
        """The problems, in the recipe's order."""
        return tuple(_mapping(self.problems, "problems"))

    @property
    def method_names(self) -> tuple[str, ...]:
        """The methods' names in this suite; ``all`` is spelled out."""
        from zoft.bench.optimisers import optimiser_names

        names = [name for given in self.methods for name in (optimiser_names() if given == ALL else (given,))]
        return tuple(dict.fromkeys(names))

    def methods_on(self, problem: str, methods: Sequence[str]) -> list[str]:
        """Return those of some methods that are run on a problem."""
        left_out = _names(_mapping(self.without, "without").get(problem, []))
        return [method for method in methods if method not in left_out]

    def task(self, problem: str) -> Mapping[str, Any]:
        """Return a problem's kind and options."""
        task: Mapping[str, Any] = _mapping(self.problems, "problems")[problem]
        return task

    def optimiser(self, method: str, problem: str) -> str:
        """Return what a method of the suite is on a problem: itself, or what its settings name as ``method``."""
        return str(self._settings(method, problem).get("method", method))

    def options(self, method: str, problem: str) -> dict[str, Any]:
        """Return the options of a method's optimiser on a problem."""
        from zoft.bench.optimisers import BASELINES

        settings = self._settings(method, problem)
        own = {key: value for key, value in settings.items() if key not in ("method", "lr_centre")}
        return own if self.optimiser(method, problem) in BASELINES else {"placement": self.zo_placement, **own}

    def centre(self, method: str, problem: str) -> float:
        """Return the middle of a method's grid of learning rates on a problem."""
        centre = self._settings(method, problem).get("lr_centre", self.lr_centre)
        if isinstance(centre, bool) or not isinstance(centre, (int, float)) or not 0.0 < centre < math.inf:
            raise ConfigError(f"lr_centre of {method} on {problem} must be a finite number > 0, got {centre!r}.")
        return float(centre)

    def run(self, problem: str, method: str, lr: float | None, seed: int, stage: Stage, factor: float = 1.0) -> Run:
        """Return the description of one run."""
        return Run(
            problem=problem,
            task=self.task(problem),
            method=method,
            optimiser=self.optimiser(method, problem),
            options=self.options(method, problem),
            lr=lr,
            lr_factor=factor,
            seed=seed,
            stage=stage,
            budget_forwards=self.budget_forwards,
            evaluations=self.evaluations,
            device=self.device,
        )

    def _settings(self, method: str, problem: str) -> Mapping[str, Any]:
        on_all = _mapping(_mapping(self.settings, "settings").get(method), f"settings: {method}")
        here = _mapping(_mapping(self.settings_on, "settings_on").get(problem), f"settings_on: {problem}")
        return {**on_all, **_mapping(here.get(method), f"settings_on: {problem}: {method}")}


def only(suite: Suite, methods: Sequence[str]) -> tuple[str, ...]:
    """Return the suite's methods among those named; none named are all.

    Raises:
        ConfigError: If a name is not among the suite's.
    """
    for name in methods:
        if name not in suite.method_names:
            raise ConfigError(f"only: {name!r} is not in the suite.{did_you_mean(name, suite.method_names)}")
    return tuple(dict.fromkeys(methods)) or suite.method_names


def _names(value: object) -> list[str]:
    """Return what a list of names holds; a single name may stand for its list."""
    return [str(name) for name in value] if isinstance(value, list) else [str(value)]


def _check_device(name: str) -> None:
    import torch

    try:
        torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device must be one of torch's, such as cpu or cuda, got {name!r}.") from None


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected a mapping, got {value!r}.")
    return value
