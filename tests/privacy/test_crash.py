"""Whatever ends a private step, wherever: what it was charged stays, and nothing of its batch or noise comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import zoft.optim.private
from tests.core.runs import digest
from tests.core.test_log_safety import disk_of
from tests.privacy.runs import Noise, Run, no_noise, noise, plan_of, promise, replayed, resumed  # noqa: F401
from zoft.engine import ZOEngine
from zoft.errors import ConfigError, PrivacyBudgetError, ReplayError
from zoft.log_file import ReplayLog, branch
from zoft.privacy.mechanism import PrivateSum

CrashAt = Callable[[], Any]


class Crash(Exception):
    """Stands for whatever may go wrong."""


@contextmanager
def crashing(
    monkeypatch: pytest.MonkeyPatch, target: Any, name: str, error: BaseException, after: bool
) -> Iterator[None]:
    """Let one call of ``target.name`` fail, before or after it did its work."""
    original = getattr(target, name)

    def fail(*args: Any, **kwargs: Any) -> Any:
        if after:
            original(*args, **kwargs)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(target, name, fail)
        yield


# Where, whether the intent was written by then, and the record.
POINTS: dict[str, tuple[Any, str, bool, bool, bool]] = {
    "before the intent": (ReplayLog, "intend", False, False, False),
    "the intent is written, not yet flushed": (ReplayLog, "flush", False, True, False),
    "after the intent": (ReplayLog, "intend", True, True, False),
    "before the first example": (ZOEngine, "estimates", False, True, False),
    "after the first example": (PrivateSum, "add", True, True, False),
    "after the last example": (zoft.optim.private.PrivateSteps, "note", True, True, False),
    "between sum and noise": (zoft.optim.private, "release", False, True, False),
    "between noise and commit": (ReplayLog, "append", False, True, False),
    "after the commit, before it is flushed": (ReplayLog, "append", True, True, True),
    "after the commit, before the weights move": (ZOEngine, "apply", False, True, True),
}


@pytest.mark.parametrize("error", [Crash(), KeyboardInterrupt()], ids=["exception", "Ctrl-C"])
@pytest.mark.parametrize("same_process", [True, False], ids=["the same process", "a new process"])
@pytest.mark.parametrize("where", POINTS)
def test_a_crash_keeps_the_charge_and_discards_the_batch_and_the_noise(
    where: str, same_process: bool, error: BaseException, noise: Noise, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target, name, after, intended, committed = POINTS[where]
    log, plan = tmp_path / "log", plan_of()
    run = Run(plan, log)
    run.step([0, 1])
    run.step([2])
    before, weights = run.spending.epsilon, digest(run.model)
    with crashing(monkeypatch, target, name, error, after), pytest.raises(type(error)):
        run.step([3, 4, 5])
    assert run.spending.charged == 2 + intended, "even where nobody resumes"
    during = run.spending.epsilon
    assert during > before if intended else during == before
    assert digest(run.model) == weights

    released = len(noise.draws)
    if not same_process:
        run.opt.close_log()
        run = resumed(plan, log)
        for _ in range(2):
            run.step([8, 9])  # repeated from the log
    assert run.spending.epsilon == during >= before
    if committed:
        logged = ReplayLog.open(log).records[2]
        run.step([6])
        assert run.opt.last_record is not None and run.opt.last_record.scalars == logged.scalars
        assert len(noise.draws) == released and run.spending.epsilon == during, "applied, neither evaluated nor noised"
    run.looked_at.clear()
    run.step([7])
    assert run.spending.epsilon > during
    assert set(run.looked_at) == {7}
    alone = Run(plan_of(), tmp_path / "other")
    alone.opt.engine.step = run.opt.engine.step - 1
    with torch.no_grad():
        alone.model.weight.copy_(run.model.weight)  # of a linear loss, the slope is the same everywhere
    alone.opt.privacy._charge = lambda: None  # type: ignore[method-assign, union-attr]
    alone.opt.loss(alone.closures([7]))
    own = [step / 2**20 for step in alone.opt.privacy._sum.total]  # type: ignore[union-attr]
    assert noise.sums[-1] == pytest.approx(own, abs=1e-6), "nothing of the interrupted batch"
    flat = [draw for draws in noise.draws for draw in draws]
    assert len(set(flat)) == len(flat), "every noise is drawn once"
    run.opt.close_log()
    assert replayed(log) == digest(run.model)
    assert ReplayLog.open(log).intents == run.spending.charged
