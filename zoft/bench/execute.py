"""One run from its description to its result."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import Any

import torch

from zoft.bench.meters import Clock, MemoryMeter
from zoft.bench.objective import BudgetSpentError, Objective
from zoft.bench.optimisers import make_optimiser
from zoft.bench.problems import Problem, Scores, make_task
from zoft.bench.run import Run
from zoft.errors import NonFiniteLossError


def execute(run: Run) -> dict[str, Any]:
    """Train as a run says, and score what came of it.

    A run that diverges (a loss that is not finite, in training or on the dev split) is a result: it counts as its
    last finite dev loss or as knowing nothing, whichever is worse.

    Returns:
        JSON types: ``run`` (its description), ``status`` (``done`` or ``diverged``), ``message``, ``scores`` (by
        split: ``loss`` in nats and ``accuracy``; the dev split alone for tuning runs), ``curve`` (rows of forwards
        spent, seconds, dev loss, from the start on), ``forwards``, ``steps``, ``seconds`` (of training alone),
        ``parameters`` (trained), ``model_bytes`` and ``extra_bytes`` (at the peak, beyond model and data).
    """
    device = torch.device(run.device)
    problem = make_task(run.task, run.problem).build(run.seed, device)
    trained = sum(p.numel() for p in problem.model.parameters() if p.requires_grad)
    curve = Curve(run, problem)  # the first evaluation brings in weights that were only mapped from their file
    memory = MemoryMeter(device)
    objective = Objective(problem, run.seed, run.budget_forwards, curve.after_step)
    status, message = "done", ""
    try:
        make_optimiser(run.optimiser, run.options, run.method).minimise(
            objective, run.lr if run.lr is not None else 1.0
        )
    except BudgetSpentError:
        pass
    except NonFiniteLossError as error:
        status, message = "diverged", str(error)
    seconds, extra = curve.clock.seconds(), memory.extra_bytes()
    splits = ("dev",) if run.stage == "tuning" else problem.splits
    scores = {split: problem.scores(split) for split in splits}
    if status == "done" and not all(math.isfinite(score.loss) for score in scores.values()):
        status, message = "diverged", "the loss on held-out rows is not finite."
    if status == "diverged":
        worst = curve.last_finite
        scores = {split: _at_best_chance(problem.chance(split), worst) for split in splits}
    curve.rows.append((objective.spent, seconds, scores["dev"].loss))
    return {
        "run": asdict(run),
        "status": status,
        "message": message,
        "scores": {split: score._asdict() for split, score in scores.items()},
        "curve": curve.rows,
        "forwards": objective.spent,
        "steps": objective.steps,
        "seconds": seconds,
        "parameters": trained,
        "model_bytes": sum(p.numel() * p.element_size() for p in problem.model.parameters()),
        "extra_bytes": extra,
    }


class Curve:
    """The dev loss at the start, and each time that a share of the budget is spent."""

    def __init__(self, run: Run, problem: Problem) -> None:
        self._problem = problem
        self._interval = run.budget_forwards / run.evaluations
        start = problem.scores("dev").loss
        self.rows: list[tuple[float, float, float]] = [(0.0, 0.0, start)]
        self.last_finite = start
        self.clock = Clock()

    def after_step(self, objective: Objective) -> None:
        """Evaluate if it is time; the last point is left to whoever scores the finished run.

        Raises:
            NonFiniteLossError: If the dev loss is not finite.
        """
        due = (self.rows[-1][0] // self._interval + 1) * self._interval
        if objective.spent < due:
            return
        seconds, since = self.clock.seconds(), time.perf_counter()
        loss = self._problem.scores("dev").loss
        if not math.isfinite(loss):
            raise NonFiniteLossError(f"the dev loss is {loss} after step {objective.steps}.")
        self.last_finite = loss
        self.rows.append((objective.spent, seconds, loss))
        self.clock.exclude(since)


def _at_best_chance(chance: Scores, last_finite: float) -> Scores:
    return Scores(max(chance.loss, last_finite), chance.accuracy)
