"""Runs the experiments on one data set and model.

Two step sizes are compared. *Equal*: every rule takes 1/16 of the largest stable step of ``nzk_shared``. *Tuned*: each
takes the step with the lowest loss at the end, by theory for linear models (a grid of factors of the square root of 2),
by training for networks (factors of 2), which learn at steps other than those of their linearisation.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from zoft.analysis.nzk import (
    KINDS,
    MOMENTS,
    Linearised,
    empirical_kernel,
    expected_kernel,
    expected_losses,
    loss_floor,
    stability_limit,
    tangent_kernel,
    train,
    tuned_lr,
)
from zoft.analysis.nzk.moments import Array
from zoft.bench.nzk.results import CHUNK, Acceleration, Curve, Drift, KernelCheck, Result, Settings
from zoft.errors import NonFiniteLossError
from zoft.tasks.images import BinaryImages
from zoft.types import ZOConfig

__all__ = ["MODELS", "Experiment", "iterations_ratio"]

MODELS: dict[str, Callable[[int], nn.Module]] = {
    "linear": lambda width: nn.Linear(width, 1),
    "mlp": lambda width: nn.Sequential(nn.Linear(width, 32), nn.Tanh(), nn.Linear(32, 1)),
}
"""By name: from the number of features to a model with one output."""

EQUAL_FRACTION = 1 / 16  # of nzk_shared's stability limit: small enough for the mean kernel to show
COMPARED = (("nzk_shared", "mezo"), ("nzk_shared", "nzk_independent"), ("mezo", "per_example"))  # fast, slow
DRIFT_DRAWS = 256
POINTS = 60  # of a curve


class Experiment:
    """One data set and model.

    Args:
        dataset: The data set's name.
        data: Its examples.
        model: A name in :data:`MODELS`.
        settings: Everything else.
    """

    def __init__(self, dataset: str, data: BinaryImages, model: str, settings: Settings) -> None:
        self.dataset, self.model, self.settings = dataset, model, settings
        self.x, self.y = torch.from_numpy(data.features), torch.from_numpy(data.targets)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.start = MODELS[model](self.x.shape[1]).double()
        self.subjects: dict[str, nn.Module] = {model: self.start}
        self.is_linear = model == "linear"
        if not self.is_linear:
            self.subjects[f"linearised {model}"] = Linearised(self.start)
        self.dimension = sum(p.numel() for p in self.start.parameters())
        self.gram = tangent_kernel(self.start, self.x)
        with torch.no_grad():
            self.residuals: Array = (self.start(self.x).reshape(-1) - self.y).numpy()
        self.first_loss = float((self.residuals**2).mean() / 2.0)
        self.floor = loss_floor(self.gram, self.residuals)
        self.steps = sorted({0, *np.geomspace(1, settings.iterations, POINTS).astype(int).tolist()})
        self.theory = cache(self._theory)

    def run(self) -> Result:
        """Run everything; bars go to stderr.

        Raises:
            NonFiniteLossError: If a loss overflows, which theory excludes only on average.
        """
        linearised = [name for name in self.subjects if name != self.model]
        kernels = [self.check_kernel(kind, distribution) for distribution in MOMENTS for kind in KINDS]
        curves = [self.curve(rule, size, self.model) for size in ("equal", "tuned") for rule in self.settings.rules]
        accelerations = self.accelerations(curves)
        curves += [self.curve("mezo", "tuned", name) for name in linearised]
        return Result(
            dataset=self.dataset,
            model=self.model,
            num_examples=len(self.x),
            dimension=self.dimension,
            floor=self.floor,
            kernels=kernels,
            curves=curves,
            accelerations=accelerations,
            drifts=[self.drift(name) for name in self.subjects],
        )

    def check_kernel(self, kind: str, distribution: str) -> KernelCheck:
        """Compare a kernel's closed form with averages over draws."""
        closed = expected_kernel(kind, self.gram, self.dimension, MOMENTS[distribution])
        most = self.settings.num_draws
        draws = sorted({max(CHUNK, most // 4**k) for k in range(5)})
        errors = []
        for count in draws:
            config = ZOConfig("mezo", distribution=distribution, seed=self.settings.seed)
            kernel = empirical_kernel(
                self.start, self.x, kind=kind, num_draws=count, config=config, chunk_size=CHUNK, progress=True
            )
            errors.append(float(np.linalg.norm(kernel - closed) / np.linalg.norm(closed)))
        factors = [float((matrix * self.gram).sum() / (self.gram**2).sum()) for matrix in (kernel, closed)]
        return KernelCheck(kind, distribution, draws, errors, *factors)

    def _theory(self, rule: str, step_size: str) -> tuple[float, Array]:
        """Return a rule's learning rate and its expected losses after every step."""
        # One z for each example has no limit in closed form; MeZO's is where to begin looking.
        limited = {"equal": "nzk_shared", "tuned": "mezo" if rule == "per_example" else rule}[step_size]
        limit = stability_limit(self.gram, rule=limited, dimension=self.dimension)
        if step_size == "equal":
            lr = EQUAL_FRACTION * limit
        elif self.is_linear:
            lr = self._tuned(rule, limit / 2.0, math.sqrt(2.0), lambda rate: float(self._expected(rule, rate)[-1]))
        else:
            lr = self._tuned(rule, limit / 8.0, 2.0, lambda rate: self._final_loss(rule, rate))
        return lr, self._expected(rule, lr)

    def _expected(self, rule: str, lr: float) -> Array:
        steps = self.settings.iterations
        return expected_losses(self.gram, self.residuals, rule=rule, dimension=self.dimension, lr=lr, num_steps=steps)

    def _tuned(self, rule: str, start: float, factor: float, final_loss: Callable[[float], float]) -> float:
        with tqdm(desc=f"tuning {rule}", unit=" lr", disable=None, leave=False) as bar:

            def counted(lr: float) -> float:
                bar.update()
                return final_loss(lr)

            return tuned_lr(counted, start, factor)

    def _final_loss(self, rule: str, lr: float) -> float:
        """Train once, with a seed that is not among those measured; infinite if the loss grows tenfold."""
        loss = math.inf
        try:
            for _, loss in self._train(rule, lr, self.model, self.settings.seed + self.settings.num_runs):
                if loss > 10.0 * self.first_loss:
                    return math.inf
        except NonFiniteLossError:
            return math.inf
        return loss

    def _train(self, rule: str, lr: float, trained: str, seed: int) -> Iterator[tuple[int, float]]:
        model = copy.deepcopy(self.subjects[trained])
        return train(model, self.x, self.y, rule=rule, lr=lr, record_at=self.steps, seed=seed, progress=True)

    def curve(self, rule: str, step_size: str, trained: str) -> Curve:
        """Train the model or its linearisation, and set beside it what theory says."""
        lr, expected = self.theory(rule, step_size)
        seeds = range(self.settings.seed, self.settings.seed + self.settings.num_runs)
        measured = np.mean([[loss for _, loss in self._train(rule, lr, trained, seed)] for seed in seeds], axis=0)
        shown = expected[self.steps]
        deviation = float(np.abs(measured / shown - 1.0).mean())
        return Curve(rule, trained, step_size, lr, self.steps, measured.tolist(), shown.tolist(), deviation)

    def accelerations(self, curves: Sequence[Curve]) -> list[Acceleration]:
        """Compare the pairs of rules that were trained."""
        found = []
        by_name = {(curve.rule, curve.step_size): curve for curve in curves}
        every = range(self.settings.iterations + 1)
        for size in ("equal", "tuned"):
            for fast, slow in COMPARED:
                if {(fast, size), (slow, size)} <= {*by_name}:
                    theory = [(every, self.theory(rule, size)[1] - self.floor) for rule in (fast, slow)]
                    pair = [by_name[rule, size] for rule in (fast, slow)]
                    practice = [(curve.steps, np.array(curve.measured) - self.floor) for curve in pair]
                    ratios = [iterations_ratio(*a, *b) for a, b in (theory, practice)]
                    found.append(Acceleration(fast, slow, size, *ratios))
        return found

    def drift(self, trained: str) -> Drift:
        """Follow the kernel through a run of MeZO at its tuned step size."""
        model = copy.deepcopy(self.subjects[trained])
        steps = sorted({0, *self.steps[1::6], self.steps[-1]})
        lr, _ = self.theory("mezo", "tuned")
        config = ZOConfig("mezo", seed=self.settings.seed)
        kernels = [
            empirical_kernel(model, self.x, kind="shared", num_draws=DRIFT_DRAWS, config=config, chunk_size=CHUNK)
            for _ in train(
                model, self.x, self.y, rule="mezo", lr=lr, record_at=steps, seed=self.settings.seed, progress=True
            )
        ]
        first = np.linalg.norm(kernels[0])
        return Drift(trained, steps, [float(np.linalg.norm(k - kernels[0]) / first) for k in kernels])


def iterations_ratio(fast_steps: Sequence[int], fast: Array, slow_steps: Sequence[int], slow: Array) -> float | None:
    """Return how many times as many steps ``slow`` takes to the lowest level that both curves reach.

    None if one of them never comes below where the other starts.

    Losses below a millionth of the first one are taken for that: rounding is not far below.

    Args:
        fast_steps: Steps at which ``fast`` was read, from 0.
        fast: Loss above the floor.
        slow_steps: Likewise of ``slow``.
        slow: Likewise.
    """
    least = 1e-6 * float(max(fast[0], slow[0]))
    fast, slow = np.maximum(fast, least), np.maximum(slow, least)
    level = max(float(fast.min()), float(slow.min()))
    taken = _reached(fast_steps, fast, level)
    return _reached(slow_steps, slow, level) / taken if taken else None


def _reached(steps: Sequence[int], losses: Array, level: float) -> float:
    """The step at which a curve first comes down to a level, interpolated between logarithms of the loss."""
    after = int(np.argmax(losses <= level))
    if after == 0:
        return float(steps[0])
    above, below = np.log(losses[after - 1]), np.log(losses[after])
    share = (above - np.log(level)) / (above - below)
    return float(steps[after - 1] + share * (steps[after] - steps[after - 1]))
