"""The engine: ``estimate`` reads the weights, ``apply`` is the only thing that writes them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from zoft.errors import ConfigError, NonFiniteLossError, PlacementError
from zoft.estimators import WHOLE, Point, Share
from zoft.interrupts import uninterrupted
from zoft.method import build_method
from zoft.noise import Term
from zoft.parameters import Trainable
from zoft.placement import Placement, SnapshotPlacement, check_placement, make_placement
from zoft.storage import reshard
from zoft.types import Estimate, LossFn, StepRecord, ZOConfig
from zoft.updates import Group


class ZOEngine:
    """Runs a zeroth-order method on one model.

    Attributes:
        model: The model.
        config: The configuration, with the method's defaults filled in. Its zo_eps is the first step's.
        trainables: The parameters that are perturbed and updated.
        group_of: For each trainable, the index of its parameter group.
        weight_decays: For each group, its weight decay, a rate multiplied by the learning rate.
        directions: The method's directions over these parameters.
        step: Number of steps recorded so far; the next step's number.
        loss_device: Where the last loss was; before the first one, where the weights are.
    """

    def __init__(
        self,
        model: nn.Module,
        config: ZOConfig,
        trainables: Sequence[Trainable],
        group_of: Sequence[int],
        weight_decays: Sequence[float],
    ) -> None:
        self.method = build_method(config)
        self.config = self.method.config
        self.model = model
        self.trainables = tuple(trainables)
        self.group_of = tuple(group_of)
        self.weight_decays = tuple(weight_decays)
        self.step = 0
        self._placement: Placement | None = None
        self._faults: list[str] = []
        check_placement(self.config, self.trainables, evaluation=self.method.evaluation)
        stored = [trainable.stored() for trainable in self.trainables]  # says so of a weight that cannot be written
        self.loss_device = stored[0].tensor.device
        self.directions = self.method.directions.over(self.trainables)

    @property
    def placement(self) -> str:
        """Name of the placement in use; before the first estimate, the configured one."""
        return self.config.placement if self._placement is None else self._placement.name

    @property
    def num_scalars(self) -> int:
        """Length of ``StepRecord.scalars``."""
        return self.method.estimator.num_scalars

    def estimate(self, loss_fn: LossFn, share: Share = WHOLE) -> Estimate:
        """Evaluate the method's points for the current step on one (micro-)batch.

        Dropout is off during the evaluations, and no graph is built. Whatever happens inside, every weight
        is bit-identical afterwards (placement ``inplace``: up to rounding).

        Args:
            loss_fn: A closure that runs one forward on a fixed batch and returns the scalar mean loss.
            share: Which of the points to evaluate, where several processes share a batch. The mean of the
                estimates over all shares is the estimate.

        Raises:
            PlacementError: At the first call, if the placement cannot reach every parameter.
        """
        points = self.method.estimator.points(self.step)
        values = self.evaluate(loss_fn, points, share)
        if self._placement is None:
            self._faults.append("the loss at the weights themselves is not finite")
            values = [math.nan] * len(values)
        rest = iter(values)
        for point in points:
            yielded = itertools.islice(rest, point.num_values)
            self._faults += [f"{point.name} is {value}" for value in yielded if not math.isfinite(value)]
        return self.method.estimator.estimate(values)

    def estimates(self, loss_fns: Sequence[LossFn]) -> list[Estimate]:
        """Estimate on each of several examples alone: what one yields does not depend on which others there are.

        Args:
            loss_fns: One closure for each example; see :meth:`estimate`. There may be none.

        Raises:
            PlacementError: If weights are not moved for good while examples are evaluated: see ``snapshot``.
        """
        points = self.method.estimator.points(self.step)
        checked = [self._checked(loss_fn) for loss_fn in loss_fns]
        reshard(self.model)
        if self._placement is None:
            self._placement = self._made_placement(WHOLE)
        placement = self._placement
        if not isinstance(placement, SnapshotPlacement):
            raise PlacementError(f"examples are evaluated alone under placement 'snapshot', not {placement.name!r}.")
        with evaluating(self.model), torch.no_grad(), placement.session():
            losses = [placement.evaluate_each(point.terms, checked) for point in points]
        return [self.method.estimator.estimate(of_example) for of_example in zip(*losses, strict=True)]

    def _made_placement(self, share: Share) -> Placement:
        return make_placement(
            self.config,
            self.model,
            self.trainables,
            self.directions,
            evaluation=self.method.evaluation,
            part=(share.part, share.parts),
        )

    def evaluate(self, loss_fn: LossFn, points: Sequence[Point], share: Share = WHOLE) -> list[float]:
        """Return what points yield, one after the other, with what :meth:`estimate` promises.

        Args:
            loss_fn: See :meth:`estimate`.
            points: Offsets from the weights.
            share: Which of the points to evaluate; the others yield zeros, and these times the number of shares.

        Raises:
            PlacementError: At the first call, if the placement cannot reach every parameter.
        """
        loss_fn = self._checked(loss_fn)
        reshard(self.model)
        with evaluating(self.model), torch.no_grad():
            placement = self._placement
            if placement is None:
                # Not before now: a model may still be sharded after its optimizer is made.
                placement = self._made_placement(share)
                self._placement = placement.proved(loss_fn)
                placement = self._placement or placement
            # Whatever the losses are, all points are evaluated: a loss may gather from other processes.
            mine = share.of(points)
            with placement.session():
                yielded = iter(placement.evaluate_all([p.terms for p in itertools.compress(points, mine)], loss_fn))
        values: list[float] = []
        for point, own in zip(points, mine, strict=True):
            values += [value * share.count for value in next(yielded)] if own else [0.0] * point.num_values
        return values

    def _checked(self, loss_fn: LossFn) -> LossFn:
        """Check what the user's closure returns.

        Also keeps copies of the weights (autocast's in 16 bits, FSDP's gathered ones) from outliving one evaluation.
        """

        def evaluate() -> torch.Tensor:
            torch.clear_autocast_cache()
            try:
                loss = loss_fn()
            except RuntimeError as error:
                if "does not require grad" not in str(error):
                    raise
                raise ConfigError(
                    "the loss closure called backward(); there are no gradients here. Let it return the loss alone."
                ) from error
            finally:
                torch.clear_autocast_cache()
                reshard(self.model)
            if not isinstance(loss, torch.Tensor):
                raise ConfigError(
                    "the loss closure must return a tensor with one element (the mean loss), got "
                    f"{type(loss).__name__}."
                )
            self.loss_device = loss.device
            return loss

        return evaluate

    def record(self, total: Sequence[float], lrs: Sequence[float], probe: Sequence[float] = ()) -> StepRecord:
        """Make the current step's record from its summed estimates.

        Args:
            total: The scalars followed by the loss, summed over micro-batches with their weights.
            lrs: Learning rate of each parameter group.
            probe: See :class:`zoft.types.StepRecord`.

        Raises:
            NonFiniteLossError: If the sum is not finite and the configuration says ``raise``.
        """
        *scalars, loss = float32(total)
        skipped = not all(map(math.isfinite, (*scalars, loss)))
        faults, self._faults = self._faults, []
        if skipped and self.config.nonfinite == "raise":
            what = f"the estimate at step {self.step} is not finite: {[*scalars, loss]}"
            raise NonFiniteLossError(
                f"{f'{faults[0]} at step {self.step}' if faults else what}. Lower the learning rate or zo_eps "
                f"(now {self.zo_eps}), check the data for empty rows, or set nonfinite='skip' "
                "(--zo_nonfinite skip) to drop such steps."
            )
        if skipped:
            scalars = [0.0] * len(scalars)
        return StepRecord(self.step, loss, tuple(scalars), float32(lrs), skipped, float32(probe))

    def gradient(self, record: StepRecord) -> list[Term]:
        """Return the gradient estimate of a record of the current step, and keep nothing of it."""
        update = self.method.update
        kept = update.state_dict()
        gradient = update.gradient(record.step, record.scalars)
        update.load_state_dict(kept)
        return gradient

    def state_dict(self) -> dict[str, Any]:
        """Return the step number and what the method keeps beside the weights."""
        return {
            "step": self.step,
            "zo_eps": self.zo_eps,
            "update": self.method.update.state_dict(),
            "rule": self.method.rule.state_dict(),
            "directions": self.directions.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.step = int(state["step"])
        self._use(state["zo_eps"])
        self.method.update.load_state_dict(state["update"])
        self.method.rule.load_state_dict(state["rule"])
        self.directions = self.directions.with_state(state["directions"])

    def apply(self, record: StepRecord) -> None:
        """Write a step's update into the weights: the same bits for the same record on the same weights.

        ``theta = theta (1 - lr weight_decay) - lr g``, in float32, rounded stochastically to 16-bit weights.
        Ctrl-C is held back until all parameters are written.

        Args:
            record: A record of the current step.

        Raises:
            ConfigError: If the record is of another step or another method.
        """
        if record.step != self.step:
            raise ConfigError(f"the engine is at step {self.step}; it cannot apply a record of step {record.step}.")
        if len(record.scalars) != self.num_scalars or len(record.lrs) != len(self.weight_decays):
            raise ConfigError(
                f"the record has {len(record.scalars)} scalars and {len(record.lrs)} learning rates; this method "
                f"and its groups have {self.num_scalars} and {len(self.weight_decays)}."
            )
        reshard(self.model)
        with uninterrupted():
            if not record.skipped:
                gradient = self.method.update.gradient(record.step, record.scalars)
                self.method.rule.descend(self.directions, self._groups(record.lrs), gradient, record)
            self.step += 1
            # A record holds float32.
            if record.probe and record.probe[0] != float32([self.zo_eps])[0]:
                self._use(record.probe[0])

    @property
    def zo_eps(self) -> float:
        """Perturbation scale of the current step."""
        zo_eps = self.method.config.zo_eps
        assert zo_eps is not None
        return zo_eps

    def _use(self, zo_eps: float) -> None:
        """Perturb by ``zo_eps`` from now on."""
        if zo_eps == self.zo_eps:
            return
        state = self.method.update.state_dict()
        other = build_method(dataclasses.replace(self.config, zo_eps=zo_eps))
        other.update.load_state_dict(state)
        self.method = dataclasses.replace(
            self.method, config=other.config, estimator=other.estimator, update=other.update
        )

    def _groups(self, lrs: Sequence[float]) -> list[Group]:
        members: list[list[Trainable]] = [[] for _ in lrs]
        for trainable, group in zip(self.trainables, self.group_of, strict=True):
            members[group].append(trainable)
        settings = zip(members, lrs, self.weight_decays, strict=True)
        return [Group(trainables, lr, 1.0 - lr * weight_decay) for trainables, lr, weight_decay in settings]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Hold every module in evaluation mode, then put back those that were training."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def float32(values: Sequence[float]) -> tuple[float, ...]:
    """Round to what the log stores."""
    return tuple(torch.tensor(values, dtype=torch.float64).to(torch.float32).tolist())
