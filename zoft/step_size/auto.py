"""``zo_lr="auto"``: the step size is measured before the first step that moves, and again while the run goes on.

A check looks back, on the present batch. On both sides along the last step's direction, as far as that step went, the
loss gives the curvature; where the weights were some steps ago it gives what these steps gained on a batch that they
had not seen. These are all that :mod:`zoft.step_size.trust` needs, whatever the method, since a step's direction holds
all queries and their weights.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from zoft.engine import ZOEngine
from zoft.errors import ConfigError
from zoft.estimators import Point
from zoft.step_size import ladder, sides
from zoft.step_size.past import Past, PastStep
from zoft.step_size.trust import Curvature, Signal, Watch
from zoft.types import StepRecord

DIRECTIONS = 8  # along which curvature is measured before the first step
AT_START = 0.25  # what one counts, where a check counts 1: training soon leaves the weights where it was measured
FIRST_CHECKS = 4  # whose curvature counts in full, and which follow an alarm at successive steps
# Of n forwards that went into estimates, so many more may go into checks: OVERHEAD n + FRONT sqrt(n).
OVERHEAD, FRONT = 0.05, 3.0
# What a check leaves of the earlier ones' weight, in what is known of curvature; a direction, of what was confirmed.
KEEP, KEEP_SIGNAL = 0.95, 0.999
SAFETY = 0.8  # the step size as a part of that which lowers the loss most by the next step
MOST = 0.3  # and of that which would if there were no noise: half of what can be gained at once is gained by that
# Where curvature has both signs, its mean is no limit. If other batches confirm a part s of slopes, a step adds
# (lr ||H||_F)^2 / s to the square of that part, and curvature along the gradient takes 2 lr times as much off as that
# is. Slopes fall fastest at lr = s STEADY / ||H||_F, where STEADY is curvature along the gradient as a part of
# ||H||_F. It is not measured: this suits a pretrained model's weights, and its adapters.
STEADY = 0.75
LONGER = 1.5  # times its part of the usual rate is what a schedule allows
GROWTH, SHRINK = 1.5, 2.0  # the most that it changes from one check to the next
CLEAR = 12.0  # times the rounding of a loss: five standard deviations of a second difference
SPIKE = 3.0  # a check's curvature counts for at most so many times what was to be expected, after the first ones
WEIGHT = 4.0  # what one counts at most, by its step's squared length; the usual one has 1
LONGEST = 3.0  # a step's length at most, in root mean squares of the last ones
# Mean squares of lengths, a tenth new a step, that are this many times their lowest are a sign of instability.
GROWN = 4.0
FARTHEST = 4.0  # at least so many zo_eps a step may go, where these were measured
FARTHER = 1.15  # and so many times as far as a check has looked
FIRST_STEPS = 20  # whose lengths are too few for that
CAUTION, CALM = 0.5, 1.01  # after an alarm, steps are so much shorter; and this is how they recover, a step
_START_POINTS = 1 + 2 * DIRECTIONS
_ROUNDING = 2.0**-24  # of a loss in float32, where its noise was not measured


@dataclass
class State:
    """All that is remembered.

    Attributes:
        reference: The learning rate that means a factor of 1: the groups' largest at the start.
        steps: Steps passed.
        past: The last steps that no check has looked back on.
        square: Running mean square of the steps' lengths.
        recent: The same over fewer steps.
        lowest: The lowest that has been, growing by what the caution recovers by.
        gain: Running mean of their gains.
        checks: Checks since the start or the last alarm.
        alarmed: Whether the first checks after an alarm are still to be made.
        lr: The step size; 0 until it is chosen.
        usual_lr: Its mean over the steps so far.
        urgent: Whether the next step is to be checked at once: the last check would have had the step size grow by more
            than it may, or a step was unusually long.
        farthest: How far an element may go in a step; limited where zo_eps was measured.
        caution: Factor on it, in (0, 1], below 1 after an alarm.
        noise: Standard deviation of the loss's rounding; 0 where it was not measured.
        forwards: Evaluations of each micro-batch so far.
        said: The first choice, in words.
        curvature: Along steps, an estimate of tr H.
        bends: Whether a check saw more curvature than rounding makes.
        spiked: Whether the last check's was cut.
        signal: Which part of that gain other batches confirm.
        watch: Statistics of the loss.
    """

    reference: float
    steps: int = 0
    past: Past = field(default_factory=Past)
    square: float = 0.0
    recent: float = 0.0
    lowest: float = sides.UNREAL
    gain: float = 0.0
    checks: int = 0
    alarmed: bool = False
    lr: float = 0.0
    usual_lr: float = 0.0
    urgent: bool = False
    farthest: float = sides.UNREAL
    caution: float = 1.0
    noise: float = 0.0
    forwards: int = 0
    said: str = ""
    curvature: Curvature = field(default_factory=Curvature)
    bends: bool = False
    spiked: bool = False
    signal: Signal = field(default_factory=Signal)
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
        self.num_values = ladder.NUM_SCALARS if choose_eps else DIRECTIONS

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
    def _allowed(self) -> float:
        """How many forwards may have gone into probing by now."""
        spent = self._state.steps * self._engine.method.estimator.forwards
        start = _START_POINTS + self._choose_eps * ladder.NUM_POINTS
        return start + OVERHEAD * spent + FRONT * math.sqrt(spent)

    @property
    def _at_start(self) -> bool:
        """Whether no curvature is known yet, which is then measured along directions that no estimate uses."""
        known = self._state.curvature
        return not known.bound and self._state.forwards + _START_POINTS <= self._allowed

    @property
    def _is_due(self) -> bool:
        state = self._state
        at_once = state.alarmed or state.urgent
        return bool(state.past.steps) and (at_once or state.forwards + self._check_forwards <= self._allowed)

    @property
    def _check_forwards(self) -> int:
        """What a check costs: where only one step is looked back on, its own two sides say what it gained."""
        return 3 if len(self._state.past.steps) == 1 else 4

    @property
    def _scale(self) -> float:
        """How far a check looks to both sides: as far as the last step went, for the loss may bend within it.

        At least by zo_eps.
        """
        return max(self._engine.zo_eps, self._state.past.steps[-1].moved)

    @property
    def _next_query(self) -> int:
        """The present step's first query that no estimate uses."""
        estimated = self._engine.method.estimator.points(self._engine.step)
        return 1 + max(term.query for point in estimated for term in point.terms)

    def points(self) -> list[Point]:
        """See :class:`zoft.step_size.StepSize`."""
        step = self._engine.step
        if self._on_ladder:
            return ladder.points(step, self._next_query)
        if self._at_start:
            return sides.points(step, self._next_query, DIRECTIONS, [self._engine.zo_eps])
        if not self._is_due:
            return []
        past, scale = self._state.past, self._scale
        return [
            Point("loss_clean of a check", ()),
            Point("loss_minus of a check", past.steps[-1].along(-scale)),
            Point("loss_plus of a check", past.steps[-1].along(scale)),
            Point("loss of a check at earlier weights", past.back(self._engine.zo_eps)),
        ][: self._check_forwards]

    def measured(self, losses: Sequence[float]) -> list[float]:
        """See :class:`zoft.step_size.StepSize`."""
        values: list[float] = []
        if self._on_ladder:
            slopes, bends = sides.differences([sides.real(loss) for loss in losses])
            values = slopes + bends
        elif not all(map(math.isfinite, losses)):
            values = [sides.UNREAL] * 2
        elif self._at_start:
            _, values = sides.differences(losses)
        elif losses:
            clean, minus, plus, *earlier = losses
            past, scale = self._state.past, self._scale
            (first,), (second,) = sides.differences([clean, plus, minus])
            slope = first / (2.0 * scale)
            gained = (
                (earlier[0] - clean) / past.stretch(self._engine.zo_eps) if earlier else past.steps[0].moved * slope
            )
            values = [gained, second / (scale * scale)]
        return values + [0.0] * (self.num_values - len(values))

    def probe(self, total: Sequence[float]) -> tuple[float, ...]:
        """See :class:`zoft.step_size.StepSize`.

        In the places of gain and curvature are after the ladder its noise and how far it saw slopes stay the same; in
        that of the gain at the start the root mean square of the curvatures.
        """
        if self._on_ladder:
            half = ladder.NUM_SCALARS // 2
            return tuple(ladder.choose(total[:half], total[half:], self._engine.zo_eps))
        zo_eps = self._engine.zo_eps
        if self._at_start:
            if not all(map(sides.is_real, total)):
                return (zo_eps, sides.UNREAL, sides.UNREAL)
            bends = [value / (zo_eps * zo_eps) for value in total[:DIRECTIONS]]
            return (zo_eps, math.sqrt(statistics.fmean(bend * bend for bend in bends)), statistics.fmean(bends))
        return (zo_eps, *total[:2])

    # --- what follows from it ---------------------------------------------------------------------------

    def rates(self, record: StepRecord, lrs: Sequence[float]) -> list[float]:
        """See :class:`zoft.step_size.StepSize`."""
        state = self._state
        zo_eps, gained, curvature = record.probe
        # A skipped step's loss may be infinite where the probe's own losses are not.
        loss = state.watch.mean if record.skipped else record.loss
        known, shortened, most = False, 1.0, math.inf
        if self._on_ladder:  # this step's estimate was made with another zo_eps, and is not looked at
            state.noise = gained if sides.is_real(gained) else 0.0
            state.farthest = max(curvature, FARTHEST * zo_eps)
            state.forwards = ladder.NUM_POINTS
        else:
            if self._at_start:
                state.forwards += _START_POINTS
                known = self._begin(gained, curvature, loss)
            elif self._is_due:
                state.forwards += self._check_forwards
                known = self._check(gained, curvature, loss, record.skipped)
            if not record.skipped:
                shortened, most = self._look_at(record)
        if known or not state.lr:
            self._choose()
        state.usual_lr += (state.lr - state.usual_lr) / (state.steps + 1 if state.usual_lr else 1)
        if state.lr and not state.said:
            noise = f"loss noise {state.noise:.1e}" if self._choose_eps else "given"
            state.said = (
                f"zo_lr auto: first step size {state.lr:.2e} (curvature along z, tr H, {state.curvature.bound:.3g}), "
                f"zo_eps {zo_eps:.1e} ({noise}), after {state.forwards} forwards of probing"
            )
        return self._scheduled(lrs, shortened, most)

    def _scheduled(self, lrs: Sequence[float], shortened: float, most: float) -> list[float]:
        """Return the groups' rates: what a schedule asks for of the usual rate, where less was not chosen already."""
        state, largest = self._state, max(lrs)
        if not largest:
            return [0.0] * len(lrs)
        part = largest / state.reference
        rate = min(state.lr, LONGER * state.usual_lr * part, self._steady * part) if part < 1.0 else state.lr
        rate = min(rate * state.caution * shortened, most)
        return [rate * lr / largest for lr in lrs]

    def _noise(self, loss: float, scale: float) -> float:
        """What rounding makes of a curvature measured so far to both sides."""
        return max(self._state.noise, _ROUNDING * abs(loss)) / (scale * scale)

    def _begin(self, size: float, mean: float, loss: float) -> bool:
        """Take in the curvatures at the start, and return whether they were real."""
        if not sides.is_real(size):
            return False
        noise = self._noise(loss, self._engine.zo_eps)
        self._state.curvature.add(AT_START, mean, size * size, noise * noise, DIRECTIONS)
        return True

    def _check(self, gained: float, curvature: float, loss: float, skipped: bool) -> bool:
        """Take in what the last steps gained, and the curvature along the last one; return whether they were real."""
        state, past = self._state, self._state.past
        state.checks += 1
        state.urgent = False
        state.alarmed = state.alarmed and state.checks < FIRST_CHECKS
        if not sides.is_real(curvature):
            state.caution *= 1.0 if skipped else CAUTION  # a batch that has no loss here says nothing
            return False
        noise = self._noise(loss, self._scale)
        # The curvature of an adapter has heavy tails: no single check is to decide, unless those before saw nothing but
        # rounding.
        most = SPIKE * state.curvature.bound if state.bends and state.checks > FIRST_CHECKS else math.inf
        if state.spiked and curvature > 0.0:  # twice in a row is no chance
            most = math.inf
        state.spiked = abs(curvature) > most
        state.bends = state.bends or abs(curvature) > CLEAR * noise
        # What a step costs is its squared length times its curvature; where slopes are steep the loss may bend more.
        # But the usual length may be that of steeper slopes at the start, which is not to hide what is seen now.
        weight = min(0.5 + 0.5 * past.steps[-1].length ** 2 / state.square, WEIGHT)
        counted = max(-most, min(curvature, most))
        state.curvature.fade(KEEP)
        state.curvature.add(weight, counted, counted * counted, noise * noise)
        state.farthest = max(state.farthest, FARTHER * self._scale)
        self._confirm(gained, curvature)
        past.steps.clear()
        return True

    def _choose(self) -> None:
        """Choose the step size by all that is known."""
        state = self._state
        cost = state.square * state.curvature.bound
        reach = max(0.0, state.gain) / cost if cost else 0.0
        lr = min(reach * min(SAFETY * state.signal.share, MOST), self._steady)
        state.urgent = state.urgent or (bool(state.lr) and lr > state.lr * GROWTH)
        state.lr = min(max(lr, state.lr / SHRINK), state.lr * GROWTH) if state.lr else lr

    @property
    def _steady(self) -> float:
        """The step size by which slopes fall fastest, where curvature has both signs."""
        state = self._state
        grown = state.square * state.curvature.size
        return STEADY * state.signal.share * max(0.0, state.gain) / grown if grown else math.inf

    def _confirm(self, gained: float, along_last: float) -> None:
        """Take in which part of what the last steps were to gain the present batch confirms."""
        state, past = self._state, self._state.past
        # What a direction usually gains: the noise of what is confirmed averages out over directions.
        usual = state.gain * math.fsum(step.lr for step in past.steps) / past.num_terms
        if usual > 0.0 and past.gain > 0.0:
            most = LONGEST * LONGEST * past.num_terms  # a single batch of huge losses is not to decide for long
            own = min(past.gain / usual, most)
            confirmed = past.confirmed(gained, along_last, state.curvature.bound, self._engine.zo_eps) / usual
            state.signal.add(own, min(max(confirmed, -most), most), KEEP_SIGNAL**past.num_terms)

    def _look_at(self, record: StepRecord) -> tuple[float, float]:
        """Take in the present step's loss and gradient; return a factor on the step size, and its largest value."""
        state = self._state
        state.caution = min(1.0, state.caution * CALM)
        if state.watch.alarm(record.loss) and state.lr:
            state.caution *= CAUTION
            state.curvature.fade(0.1)
            state.checks, state.alarmed = 0, True
        gradient = self._engine.gradient(record)
        length = math.sqrt(math.fsum(t.coefficient * t.coefficient for t in gradient))
        if not length:
            return 1.0, math.inf
        slopes = self._engine.method.estimator.projected_grads(record.scalars)
        gain = math.fsum(slopes[t.query] * t.coefficient for t in gradient)
        state.past.add(PastStep([(t.step, t.query, t.coefficient) for t in gradient], length, gain))
        # A single outlier can undo what dozens of steps gained; nor is it to make the next one look usual.
        shortened = min(1.0, LONGEST * math.sqrt(state.recent) / length) if state.recent else 1.0
        counted = shortened * shortened
        state.urgent = state.urgent or shortened < 0.5  # six times as long as usual
        new = max(0.05, 1.0 / (state.steps + 1)) if state.square else 1.0
        state.gain += new * (gain * counted - state.gain)
        square = length * length * counted
        state.square += new * (square - state.square)
        state.recent += max(0.1, new) * (square - state.recent)
        if state.steps >= FIRST_STEPS:
            state.lowest = min(state.recent, state.lowest * CALM)
        # Where curvature has both signs, steps too long make slopes grow before losses do.
        steady = min(1.0, math.sqrt(GROWN * state.lowest / state.recent))
        return shortened * steady, state.farthest / length

    def took(self, record: StepRecord) -> None:
        """See :class:`zoft.step_size.StepSize`."""
        self._state.steps += 1
        self._state.past.went(record.step, max(record.lrs))

    def state_dict(self) -> dict[str, Any]:
        """See :class:`zoft.step_size.StepSize`."""
        return asdict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`zoft.step_size.StepSize`."""
        state = copy.deepcopy(state)
        parts = {
            "past": Past([PastStep(**step) for step in state["past"]["steps"]]),
            "curvature": Curvature(**state["curvature"]),
            "signal": Signal(**state["signal"]),
            "watch": Watch(**state["watch"]),
        }
        self._state = State(**{**state, **parts})
