"""``zo_lr="auto"``: the step size is measured before the first step that moves, and again while the run goes on.

A check looks back, on the present batch. On both sides along the last step's direction, as far as that step went, the
loss gives the curvature; where the weights were some steps ago it gives what these steps gained on a batch that they
had not seen. These are all that :mod:`zoft.step_size.trust` needs, whatever the method, since a step's direction holds
all queries and their weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from zoft.engine import ZOEngine
from zoft.errors import ConfigError
from zoft.estimators import Point
from zoft.step_size import ladder
from zoft.step_size.past import Past, PastStep
from zoft.step_size.trust import Curvature, Signal, Watch, clipped
from zoft.types import StepRecord

FIRST_CHECKS = 4  # before a step moves, so that no single flat direction decides
# Of n forwards that went into estimates, so many more may go into checks: OVERHEAD n + FRONT sqrt(n).
OVERHEAD, FRONT = 0.05, 3.0
# What a check leaves of the earlier ones' weight, in what is known of curvature; a direction, of what was confirmed.
KEEP, KEEP_SIGNAL = 0.95, 0.998
# The part of a slope that is expected to be confirmed, and as how many directions that counts.
EXPECTED, EXPECTED_TERMS = 0.1, 100.0
# The step size as a part of that which lowers the loss most, and its bounds as parts of what curvature alone allows.
SAFETY, LEAST, MOST = 0.6, 0.02, 0.4
GROWTH, SHRINK = 1.5, 2.0  # the most that it changes from one check to the next
SPIKE = 3.0  # a check's curvature counts for at most so many times the mean of those before, after the first ones
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
        past: The last steps that no check has looked back on.
        square: Running mean square of the steps' lengths.
        gain: Running mean of their gains.
        checks: Checks since the start or the last alarm.
        lr: The step size; 0 until it is chosen.
        caution: Factor on it, in (0, 1], below 1 after an alarm.
        noise: Standard deviation of the loss's rounding; 0 where it was not measured.
        forwards: Evaluations of each micro-batch so far.
        said: The first choice, in words.
        curvature: Along steps, an estimate of tr H.
        signal: Which part of that gain other batches confirm.
        watch: Statistics of the loss.
    """

    reference: float
    steps: int = 0
    past: Past = field(default_factory=Past)
    square: float = 0.0
    gain: float = 0.0
    checks: int = 0
    lr: float = 0.0
    caution: float = 1.0
    noise: float = 0.0
    forwards: int = 0
    said: str = ""
    curvature: Curvature = field(default_factory=Curvature)
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
        return bool(state.past.steps) and (
            state.checks < FIRST_CHECKS or state.forwards + self._check_forwards <= allowed
        )

    @property
    def _check_forwards(self) -> int:
        """What a check costs: where only one step is looked back on, two of its four points are the same."""
        return 3 if len(self._state.past.steps) == 1 else 4

    @property
    def _scale(self) -> float:
        """How far a check looks to both sides: as far as the last step went, for the loss may bend within it.

        At least by zo_eps.
        """
        return max(self._engine.zo_eps, self._state.past.steps[-1].moved)

    def points(self) -> list[Point]:
        """See :class:`zoft.step_size.StepSize`."""
        if self._on_ladder:
            estimated = self._engine.method.estimator.points(self._engine.step)
            query = 1 + max(term.query for point in estimated for term in point.terms)
            return ladder.points(self._engine.step, query)
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
            values = ladder.differences([loss if math.isfinite(loss) else _UNREAL for loss in losses])
        elif not all(map(math.isfinite, losses)):
            values = [0.0, _UNREAL]
        elif losses:
            clean, minus, plus, *_ = losses
            earlier = losses[-1]
            stretch, scale = self._state.past.stretch(self._engine.zo_eps), self._scale
            values = [(earlier - clean) / stretch, ((plus - clean) + (minus - clean)) / (scale * scale)]
        return values + [0.0] * (self.num_values - len(values))

    def probe(self, total: Sequence[float]) -> tuple[float, ...]:
        """See :class:`zoft.step_size.StepSize`; after the ladder, its noise is in the place of the gain."""
        if self._on_ladder:
            return (*ladder.choose(total, self._engine.zo_eps), 0.0)
        return (self._engine.zo_eps, *total[:2])

    # --- what follows from it ---------------------------------------------------------------------------

    def rates(self, record: StepRecord, lrs: Sequence[float]) -> list[float]:
        """See :class:`zoft.step_size.StepSize`."""
        state = self._state
        zo_eps, gained, curvature = record.probe
        if self._on_ladder:
            state.noise, state.forwards = gained if gained < 1e-3 * _UNREAL else 0.0, ladder.NUM_POINTS
        elif self._is_due:
            state.forwards += self._check_forwards
            # A skipped step's loss may be infinite where the check's own losses are not.
            self._check(gained, curvature, 0.0 if record.skipped else record.loss)
        length = 0.0 if record.skipped else self._look_at(record)
        if state.lr and not state.said:
            noise = f"loss noise {state.noise:.1e}" if self._choose_eps else "given"
            state.said = (
                f"zo_lr auto: first step size {state.lr:.2e} (curvature along z, tr H, {state.curvature.mean:.3g}), "
                f"zo_eps {zo_eps:.1e} ({noise}), after {state.forwards} forwards of probing"
            )
        shortened = clipped(length, state.square, LONGEST) / length if length else 1.0
        return [state.lr * state.caution * shortened * lr / state.reference for lr in lrs]

    def _check(self, gained: float, curvature: float, loss: float) -> None:
        """Take in what the last steps gained, and the curvature along the last one, and choose the step size anew."""
        state, past = self._state, self._state.past
        last = past.steps[-1]
        state.checks += 1
        if not abs(curvature) < 1e-3 * _UNREAL:
            state.caution *= CAUTION
            return
        noise = max(state.noise, _ROUNDING * abs(loss)) / (self._scale * self._scale)
        # The curvature of an adapter, a product of two factors, has heavy tails: no single check is to decide, unless
        # those before saw nothing but rounding.
        known = state.checks > FIRST_CHECKS and state.curvature.mean > SPIKE * noise
        most = SPIKE * state.curvature.mean if known else math.inf
        state.curvature.fade(KEEP)
        # In units of the usual length, so that the long steps of a run's beginning do not outweigh all later ones.
        state.curvature.add(last.length / math.sqrt(state.square), max(min(abs(curvature), most), noise))
        self._confirm(gained)
        if past.has_moved:
            past.steps.clear()
        if state.checks < FIRST_CHECKS:
            return
        cost = state.square * state.curvature.mean
        reach = max(0.0, state.gain) / cost if cost else 0.0
        lr = reach * max(LEAST, min(SAFETY * state.signal.share(EXPECTED, EXPECTED_TERMS), MOST))
        state.lr = min(max(lr, state.lr / SHRINK), state.lr * GROWTH) if state.lr else lr

    def _confirm(self, gained: float) -> None:
        """Take in which part of what the last steps were to gain the present batch confirms."""
        state, past = self._state, self._state.past
        # What a direction usually gains: the noise of what is confirmed averages out over directions.
        usual = state.gain * math.fsum(past.lrs) / past.num_terms
        if usual > 0.0:
            most = LONGEST * LONGEST * past.num_terms  # a single batch of huge losses is not to decide for long
            own = min(past.gain / usual, most)
            confirmed = past.confirmed(gained, state.curvature.mean, self._engine.zo_eps) / usual
            state.signal.add(own, min(max(confirmed, -most), most), KEEP_SIGNAL**past.num_terms)

    def _look_at(self, record: StepRecord) -> float:
        """Take in the present step's loss and gradient, and return the gradient's length an element."""
        state = self._state
        state.caution = min(1.0, state.caution * CALM)
        if state.watch.alarm(record.loss) and state.lr:
            state.caution *= CAUTION
            state.curvature.fade(0.1)
            state.checks = 0  # check every step again
        gradient = self._engine.gradient(record)
        length = math.sqrt(math.fsum(t.coefficient * t.coefficient for t in gradient))
        if length:
            slopes = self._engine.method.estimator.projected_grads(record.scalars)
            gain = math.fsum(slopes[t.query] * t.coefficient for t in gradient)
            state.past.add(PastStep([(t.step, t.query, t.coefficient) for t in gradient], length, gain))
        return length

    def took(self, record: StepRecord) -> None:
        """See :class:`zoft.step_size.StepSize`."""
        state = self._state
        state.steps += 1
        last = state.past.last_of(record.step)
        if last is None:  # the step was skipped, or its estimate was zero
            return
        state.past.went(max(record.lrs))
        square = clipped(last.length, state.square, LONGEST) ** 2
        gain = last.gain * square / last.length**2
        new = max(0.05, 1.0 / state.steps) if state.square else 1.0
        state.gain += new * (gain - state.gain)
        state.square += new * (square - state.square)
        if self._choose_eps and state.steps == 1:
            state.past.steps.clear()  # this step's estimate was made with another zo_eps

    def state_dict(self) -> dict[str, Any]:
        """See :class:`zoft.step_size.StepSize`."""
        return asdict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`zoft.step_size.StepSize`."""
        parts = {
            "past": Past([PastStep(**step) for step in state["past"]["steps"]]),
            "curvature": Curvature(**state["curvature"]),
            "signal": Signal(**state["signal"]),
            "watch": Watch(**state["watch"]),
        }
        self._state = State(**{**state, **parts})
