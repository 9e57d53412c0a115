"""A run in which nothing changed is an error, not a success."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

from zoft.errors import UnchangedError, ZoftWarning
from zoft.optim import ZOOptimizer
from zoft.replay_log import hashes
from zoft.types import StepRecord


def check_changed(optimizer: ZOOptimizer, learning_rate: float) -> None:
    """Compare the trained weights with the hashes of them that the run's log begins with.

    Args:
        optimizer: The run's optimizer, with its log.
        learning_rate: What the user asked for. Zero is taken at its word: a warning in place of the error.

    Raises:
        UnchangedError: Steps were taken and every trained weight is the one that the run began with.
    """
    engine = optimizer.engine

    def logged() -> tuple[dict[str, str], list[StepRecord]]:
        log = optimizer.log
        return ({}, []) if log is None else (log.header["base"], log.records)

    base, records = optimizer.replicas.from_first(logged)  # all processes look, since sharded weights need them all
    if not records:
        return
    # One at a time: nearly always the first one differs.
    if any(hashes({t.name: t.slot})[t.name] != base[t.name] for t in engine.trainables):
        return
    why = why_unchanged(
        records,
        engine.method.estimator.projected_grads,
        [t.name for t in engine.trainables],
        engine.zo_eps,
    )
    message = f"no trained weight changed by a single bit in {len(records)} steps: {why}"
    if learning_rate:
        raise UnchangedError(message)
    warnings.warn(message, ZoftWarning, stacklevel=3)


def why_unchanged(
    records: Sequence[StepRecord],
    projected_grads: Callable[[Sequence[float]], Sequence[float]],
    names: Sequence[str],
    zo_eps: float | None,
) -> str:
    """Say, as far as a run's records tell, why its updates were nothing, and what to do.

    Args:
        records: The run's records, one or more.
        projected_grads: Turns a record's scalars into slopes.
        names: The trained parameters.
        zo_eps: The run's perturbation scale.
    """
    taken = [record for record in records if not record.skipped]
    if not taken:
        return (
            "each was dropped because its loss was not finite. Lower zo_eps, check the data for empty rows, or load "
            "the model in float32."
        )
    moving = [record for record in taken if any(record.lrs)]
    if not moving:
        if any(record.probe for record in taken):
            return (
                "the step size was still being measured (zo_lr auto), which takes the first step, or more if losses "
                "are not finite or do not bend. Take more steps (max_steps), or give a learning_rate (and zo_lr given)."
            )
        return "the learning rate was 0 at each. Check learning_rate, lr_scheduler_type and the warm-up."
    if not any(any(projected_grads(record.scalars)) for record in moving):
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        return (
            f"each projected gradient was exactly zero, so the loss does not depend on what is trained ({listed}), or "
            f"zo_eps={zo_eps} is too small to show in it."
        )
    largest = max(max(record.lrs) for record in moving)
    return (
        f"at a learning rate of at most {largest:.1e} the updates are smaller than the weights' precision resolves. "
        "Raise learning_rate."
    )
