"""``zo_lr="auto"``: the step size is measured before the first step that moves, and again while the run goes on.

A check looks back at the last step. At the present weights, on the present batch, the loss is evaluated on both sides
along that step's direction, as far as the step went. That gives the slope as another batch sees it, and the curvature;
these are all that :mod:`zoft.step_size.trust` needs, whatever the method, since the direction holds all queries and
their weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from zoft.engine import ZOEngine
from zoft.errors import ConfigError
from zoft.estimators import Point
from zoft.noise import Term
from zoft.step_size import ladder
from zoft.step_size.trust import Gain, Watch, clipped
from zoft.types import StepRecord

CHECK_FORWARDS = 3
FIRST_CHECKS = 8  # before a step moves, so that no single flat direction decides
# Of n forwards that went into estimates, so many more may go into checks: OVERHEAD n + FRONT sqrt(n).
OVERHEAD, FRONT = 0.1, 4.0
# What a check leaves of the earlier ones' weight, in what is known of curvature, and of slopes, which are noisier.
KEEP, KEEP_FRESH = 0.9, 0.98
# Until it is known: the part of a slope that the next batch confirms, counted as this many times the first checks.
EXPECTED, EXPECTED_SHARE = 0.2, 2.0
# The step size as a part of that which lowers the loss most, and its bounds as parts of what curvature alone allows.
SAFETY, LEAST, MOST = 0.6, 0.02, 0.2
GROWTH, SHRINK = 1.1, 2.0  # the most that it changes from one check to the next
LONGEST = 4.0  # a step's length at most, in root mean squares of the last ones
CAUTION, CALM = 0.5, 1.01  # after an alarm, steps are so much shorter; and this is how they recover, a step
_UNREAL = 1e20  # stands for what is not finite: unlike NaN it can be summed, and multiplied by zero
_ROUNDING = 2.0**-24  # of a loss in float32, where its noise was not measured


@dataclass
class State:
    """All that is remembered.

    Attributes:
        reference: The learning rate that means a factor of 1: the groups' largest at the start.
        steps: Steps passed.
        terms: The last step's direction, of unit length an element, as (step, query, coefficient).
        length: That step's gradient estimate, in such lengths.
        own: The slope along it on its own batch, in loss per such length.
        moved: How far the step went along it, in such lengths.
        square: Running mean square of ``length``.
        checks: Checks since the start or the last alarm.
        lr: The step size; 0 until it is chosen.
        caution: Factor on it, in (0, 1], below 1 after an alarm.
        noise: Standard deviation of the loss's rounding; 0 where it was not measured.
        forwards: Evaluations of each micro-batch so far.
        said: The first choice, in words.
        gain: What steps gain and cost.
        watch: Statistics of the loss.
    """

    reference: float
    steps: int = 0
    terms: list[tuple[int, int, float]] = field(default_factory=list)
    length: float = 0.0
    own: float = 0.0
    moved: float = 0.0
    square: float = 0.0
    checks: int = 0
    lr: float = 0.0
    caution: float = 1.0
    noise: float = 0.0
    forwards: int = 0
    said: str = ""
    gain: Gain = field(default_factory=Gain)
    watch: Watch = field(default_factory=Watch)


class AutoStepSize:
    """See :class:`zoft.step_size.StepSize`."""

    def __init__(self, engine: ZOEngine, lrs: Sequence[float], choose_eps: bool) -> None:
        """Begin a run.

        Args:
            engine: The run's engine.
            lrs: The groups' learning rates; from now on they count relative to the largest one.
            choose_eps: Whether zo_eps is to be measured too, in the first step.

        Raises:
            ConfigError: If all learning rates are 0.
        """
        if not any(lrs):
            raise ConfigError(
                "zo_lr='auto' takes the learning rate as relative to its value at the start, which must not be 0: give "
                "any positive one (lr, learning_rate)."
            )
        self._engine = engine
        self._choose_eps = choose_eps
        self._state = State(max(lrs))
        self.num_values = ladder.NUM_SCALARS if choose_eps else 2

    @property
    def forwards(self) -> int:
        """See :class:`zoft.step_size.StepSize`."""
        return self._state.forwards

    @property
    def figures(self) -> dict[str, float]:
        """See :class:`zoft.step_size.StepSize`."""
        return {"zo_lr": self._state.lr * self._state.caution, "zo_eps": self._engine.zo_eps}

    @property
    def said(self) -> str:
        """See :class:`zoft.step_size.StepSize`."""
        return self._state.said

    # --- what is evaluated ------------------------------------------------------------------------------

    @property
    def _on_ladder(self) -> bool:
        return self._choose_eps and self._state.steps == 0

    @property
    def _is_due(self) -> bool:
        state = self._state
        spent = state.steps * self._engine.method.estimator.forwards
        allowed = OVERHEAD * spent + FRONT * math.sqrt(spent)
        return bool(state.terms) and (state.checks < FIRST_CHECKS or state.forwards + CHECK_FORWARDS <= allowed)

    @property
    def _scale(self) -> float:
        """How far a check looks: as far as the last step went, for the loss may bend within it; at least by zo_eps."""
        return max(self._engine.zo_eps, self._state.moved)

    def points(self) -> list[Point]:
        """See :class:`zoft.step_size.StepSize`."""
        if self._on_ladder:
            estimated = self._engine.method.estimator.points(self._engine.step)
            query = 1 + max(term.query for point in estimated for term in point.terms)
            return ladder.points(self._engine.step, query)
        if not self._is_due:
            return []
        return [
            Point("loss_clean of a check", ()),
            *(
                Point(f"loss_{sign} of a check", tuple(Term(step, k, scale * c) for step, k, c in self._state.terms))
                for sign, scale in (("plus", self._scale), ("minus", -self._scale))
            ),
        ]

    def measured(self, losses: Sequence[float]) -> list[float]:
        """See :class:`zoft.step_size.StepSize`."""
        values: list[float] = []
        if self._on_ladder:
            values = ladder.differences([loss if math.isfinite(loss) else _UNREAL for loss in losses])
        elif not all(map(math.isfinite, losses)):
            values = [0.0, _UNREAL]
        elif losses:
            clean, plus, minus = losses
            scale = self._scale
            values = [(plus - minus) / (2.0 * scale), ((plus - clean) + (minus - clean)) / (scale * scale)]
        return values + [0.0] * (self.num_values - len(values))

    def probe(self, total: Sequence[float]) -> tuple[float, ...]:
        """See :class:`zoft.step_size.StepSize`; after the ladder, its noise is in the place of the slope."""
        if self._on_ladder:
            return (*ladder.choose(total, self._engine.zo_eps), 0.0)
        return (self._engine.zo_eps, *total[:2])

    # --- what follows from it ---------------------------------------------------------------------------

    def rates(self, record: StepRecord, lrs: Sequence[float]) -> list[float]:
        """See :class:`zoft.step_size.StepSize`."""
        state = self._state
        zo_eps, slope, curvature = record.probe
        if self._on_ladder:
            state.noise, state.forwards = slope, ladder.NUM_POINTS
        elif self._is_due:
            state.forwards += CHECK_FORWARDS
            self._check(slope, curvature, record.loss)
        if not record.skipped:
            self._look_at(record)
        if state.lr and not state.said:
            noise = f"loss noise {state.noise:.1e}" if self._choose_eps else "given"
            state.said = (
                f"zo_lr auto: first step size {state.lr:.2e} (curvature along z, tr H, {state.gain.curvature:.3g}), "
                f"zo_eps {zo_eps:.1e} ({noise}), after {state.forwards} forwards of probing"
            )
        shortened = clipped(state.length, state.square, LONGEST) / state.length if state.length else 1.0
        return [state.lr * state.caution * shortened * lr / state.reference for lr in lrs]

    def _check(self, slope: float, curvature: float, loss: float) -> None:
        """Take in the slope and the curvature along the last step's direction, and choose the step size anew."""
        state, gain = self._state, self._state.gain
        state.checks += 1
        if not abs(curvature) < 1e-3 * _UNREAL:
            state.caution *= CAUTION
            return
        noise = max(state.noise, _ROUNDING * abs(loss)) / (self._scale * self._scale)
        # In units of the usual length, so that the long steps of a run's beginning do not outweigh all later ones.
        unit = math.sqrt(state.square)
        fresh = slope + state.moved * curvature  # where the step began
        gain.fade(KEEP, KEEP_FRESH)
        gain.add(state.length / unit, state.own / unit, fresh / unit, max(abs(curvature), noise))
        if state.checks < FIRST_CHECKS:
            return
        if not state.lr:
            gain.expect(EXPECTED, EXPECTED_SHARE)
        lr = max(LEAST * gain.reach, min(SAFETY * gain.best, MOST * gain.reach))
        state.lr = min(max(lr, state.lr / SHRINK), state.lr * GROWTH) if state.lr else lr

    def _look_at(self, record: StepRecord) -> None:
        """Take in the present step's loss and gradient."""
        state = self._state
        state.caution = min(1.0, state.caution * CALM)
        if state.watch.alarm(record.loss) and state.lr:
            state.caution *= CAUTION
            state.gain.fade(0.1, 0.5)
            state.checks = 0  # check every step again
        gradient = self._engine.gradient(record)
        state.length = math.sqrt(math.fsum(t.coefficient * t.coefficient for t in gradient))
        state.terms = [(t.step, t.query, t.coefficient / state.length) for t in gradient if state.length]
        slopes = self._engine.method.estimator.projected_grads(record.scalars)
        state.own = math.fsum(slopes[query] * coefficient for _, query, coefficient in state.terms)

    def took(self, record: StepRecord) -> None:
        """See :class:`zoft.step_size.StepSize`."""
        state = self._state
        state.steps += 1
        if record.skipped:
            return
        state.moved = max(record.lrs) * state.length
        square = clipped(state.length, state.square, LONGEST) ** 2
        state.square += 0.05 * (square - state.square) if state.square else square
        if self._choose_eps and state.steps == 1:
            state.terms = []  # this step's estimate was made with another zo_eps

    def state_dict(self) -> dict[str, Any]:
        """See :class:`zoft.step_size.StepSize`."""
        return asdict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`zoft.step_size.StepSize`."""
        gain, watch = Gain(**state["gain"]), Watch(**state["watch"])
        self._state = State(**{**state, "gain": gain, "watch": watch, "terms": [*state["terms"]]})
