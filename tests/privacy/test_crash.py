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
from tests.privacy.runs import Noise, Run, plan_of, promise, record_size, replayed, resumed
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


@pytest.mark.parametrize(
    ("same_process", "error"),
    [
        pytest.param(True, KeyboardInterrupt(), id="Ctrl-C, the same process"),
        pytest.param(False, Crash(), id="exception, a new process"),
        pytest.param(True, Crash(), id="exception, the same process", marks=pytest.mark.slow),
        pytest.param(False, KeyboardInterrupt(), id="Ctrl-C, a new process", marks=pytest.mark.slow),
    ],
)
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


def test_micro_batches_before_a_failure_leave_no_examples_to_the_next_attempt(no_noise: Noise, tmp_path: Path) -> None:
    run = Run(plan_of(), tmp_path / "log")
    run.opt.loss(run.closures([0, 1])).backward()
    with pytest.raises(Crash):
        run.opt.loss([*run.closures([2]), _crash])
    run.opt.loss(run.closures([3])).backward()
    run.opt.step()
    assert run.spending.charged == 2, "the second attempt pays for itself"
    alone = Run(plan_of(), tmp_path / "alone")
    alone.step([3])
    assert no_noise.sums[0] == no_noise.sums[1]


# --- torn records and full disks ------------------------------------------------------------------------


def test_torn_records_are_cut_and_an_intent_before_a_torn_commit_counts(tmp_path: Path) -> None:
    log, plan = tmp_path / "log", plan_of()
    run = Run(plan, log)
    run.step()
    run.step()
    run.opt.close_log()
    content = log.read_bytes()
    size = record_size(ReplayLog.open(log))
    for torn in range(1, 2 * size):
        log.write_bytes(content[:-torn])
        held = ReplayLog.open(log)
        assert (held.intents, len(held.records)) == ((2, 1) if torn <= size else (1, 1))
        if torn in (1, size - 1, size, size + 1, 2 * size - 1):
            again = resumed(plan, log)
            assert again.spending.charged == held.intents
            again.step()
            again.step()
            again.opt.close_log()
            assert ReplayLog.open(log).intents == held.intents + 1
            assert replayed(log) == digest(again.model)


@pytest.mark.parametrize("room", [0, 7], ids=["no room", "room for 7 bytes"])
@pytest.mark.parametrize("full_at", ["intent", "commit"])
@pytest.mark.parametrize("same_process", [True, False], ids=["the same process", "a new process"])
def test_a_full_disk_neither_moves_the_weights_nor_takes_back_a_charge(
    same_process: bool, full_at: str, room: int, noise: Noise, tmp_path: Path
) -> None:
    log, plan = tmp_path / "log", plan_of()
    run = Run(plan, log)
    run.step()
    weights = digest(run.model)
    one = record_size(ReplayLog.open(log)) if full_at == "commit" else 0
    with disk_of(log.stat().st_size + one + room):
        with pytest.raises(ReplayError, match=r"step 1.* make room"):
            run.step([3, 4])
        if full_at == "commit":
            with pytest.raises(ReplayError, match=r"step 1.* make room"):
                run.step([3, 4])
    charged = run.spending.charged
    assert charged == (2 if full_at == "commit" else 1) and digest(run.model) == weights
    assert full_at == "commit" or not {3, 4} & set(run.looked_at), "uncharged, no example is looked at"
    if not same_process:
        run.opt.close_log()
        run = resumed(plan, log)
        run.step()
    run.step([5])
    assert run.spending.charged == charged + 1
    run.opt.close_log()
    assert (len(ReplayLog.open(log).records), ReplayLog.open(log).intents) == (2, charged + 1)
    assert replayed(log) == digest(run.model)


@pytest.mark.parametrize("nth", [1, 2], ids=["while the intent is flushed", "while the commit is flushed"])
def test_a_disk_that_fails_to_flush_is_a_readable_error_and_nothing_moves(
    nth: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = Run(plan_of(), tmp_path / "log")
    flushed, weights = 0, digest(run.model)
    original = os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal flushed
        flushed += 1
        if flushed == nth:
            raise OSError(5, "Input/output error")
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ReplayError, match=r"could not be brought to the disk.*Input/output error"):
        run.step()
    assert digest(run.model) == weights and run.spending.charged == 1


def test_a_real_ctrl_c_during_either_write_leaves_a_log_that_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log, plan = tmp_path / "log", plan_of(steps=20)
    original = os.pwrite
    Run(plan, log).opt.close_log()
    for nth in (1, 2, 1, 2):
        run, written = resumed(plan, log), 0
        held = ReplayLog.open(log)
        for _ in held.records:
            run.step()

        def pwrite(*args: Any, nth: int = nth) -> int:
            nonlocal written
            written += 1
            if written == nth:
                signal.raise_signal(signal.SIGINT)
            return original(*args)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "pwrite", pwrite)
            run.step()
        run.opt.close_log()
        now = ReplayLog.open(log)
        assert now.intents == held.intents + 1 == run.spending.charged
        assert len(now.records) == len(held.records) + nth - 1


# --- which log a run may go on with ---------------------------------------------------------------------


def test_an_earlier_copy_of_the_log_is_refused(tmp_path: Path) -> None:
    log, plan = tmp_path / "log", plan_of()
    run = Run(plan, log)
    run.step()
    run.opt.flush_log()
    earlier = log.read_bytes()
    with pytest.raises(Crash):
        run.opt.step([_crash])
    run.opt._run_log.records.clear()
    state, weights = run.opt.state_dict(), run.model.state_dict()
    assert state["zo"]["charged"] == 2
    run.opt.close_log()
    log.write_bytes(earlier)
    again = Run(plan)
    again.model.load_state_dict(weights)
    again.opt.load_state_dict(state)
    with pytest.raises(ReplayError, match=r"holds 1 charges, the checkpoint 2 .*earlier copy"):
        again.opt.resume_log(log)


def _crash() -> torch.Tensor:
    raise Crash


@pytest.mark.parametrize(
    ("changes", "facts", "says"),
    [
        ({"dp_noise_multiplier": 2.0}, {}, "dp_noise_multiplier"),
        ({"dp_target_epsilon": 30.0}, {}, "dp_target_epsilon"),
        ({"dp_target_delta": 1e-6}, {}, "dp_target_delta"),
        ({"dp_clip_threshold": 2.0}, {}, "dp_clip_threshold"),
        ({"dp_accountant": "prv"}, {}, "dp_accountant"),
        ({}, {"num_examples": 41}, "num_examples"),
        ({}, {"expected_batch_size": 5}, "expected_batch_size"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_going_on_with_other_settings_is_refused(
    changes: dict[str, Any], facts: dict[str, Any], says: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    run = Run(plan_of(), log)
    run.step()
    run.opt.close_log()
    with pytest.raises(ReplayError, match=rf"privacy = .*{says}.*\(now"):
        resumed(plan_of(promise(**changes), **facts), log)


def test_a_private_log_does_not_go_on_without_privacy_nor_the_other_way_round(tmp_path: Path) -> None:
    run = Run(plan_of(), tmp_path / "private")
    run.step()
    run.opt.close_log()
    with pytest.raises(ReplayError, match=r"privacy = .*now None"):
        Run(None).opt.resume_log(tmp_path / "private")
    plain = Run(None, tmp_path / "plain")
    plain.opt.step(plain.closures([0])[0])
    plain.opt.close_log()
    with pytest.raises(ReplayError, match=r"privacy = None.*now"):
        resumed(plan_of(), tmp_path / "plain")


@pytest.mark.parametrize("steps", [3, 30])
def test_another_number_of_steps_keeps_the_noise_of_the_log_and_the_budget(steps: int, tmp_path: Path) -> None:
    config = promise(dp_noise_multiplier=None, dp_target_epsilon=2.0)
    first, log = plan_of(config, steps=10), tmp_path / "log"
    run = Run(first, log)
    run.step()
    run.opt.close_log()
    other = plan_of(config, steps=steps)
    assert other.noise_multiplier != first.noise_multiplier
    run = resumed(other, log)
    assert run.spending.plan.noise_multiplier == first.noise_multiplier
    run.step()
    while not run.spending.is_spent:
        run.step()
    assert run.opt.engine.step >= 10, "what was planned at first is paid for"
    assert run.spending.epsilon <= 2.0
    with pytest.raises(PrivacyBudgetError, match=r"the budget is spent: .* steps cost epsilon"):
        run.step()


def test_a_branch_keeps_all_charges(tmp_path: Path) -> None:
    log, plan = tmp_path / "log", plan_of()
    run = Run(plan, log)
    for _ in range(3):
        run.step()
    with pytest.raises(Crash):
        run.opt.step([_crash])
    run.opt.close_log()
    branch(ReplayLog.open(log), 1, tmp_path / "branch")
    twig = resumed(plan, tmp_path / "branch" / "zo_log")
    assert twig.spending.charged == 4 and twig.spending.epsilon == run.spending.epsilon
    twig.step()
    twig.step()
    twig.opt.close_log()
    assert ReplayLog.open(tmp_path / "branch" / "zo_log").intents == 5
    assert replayed(tmp_path / "branch" / "zo_log") == digest(twig.model)


# --- the budget -----------------------------------------------------------------------------------------


def test_wasted_charges_come_off_the_budget(tmp_path: Path) -> None:
    plan = plan_of(promise(dp_noise_multiplier=None, dp_target_epsilon=2.0), steps=10)
    run = Run(plan, tmp_path / "log")
    most = plan.affordable(1000)
    assert 10 <= most < 20
    for _ in range(most - 8):
        with pytest.raises(Crash):
            run.opt.step([_crash])
    for _ in range(8):
        assert not run.spending.is_spent
        run.step()
    assert run.spending.is_spent and 1.9 < run.spending.epsilon <= 2.0
    looked_at = len(run.looked_at)
    with pytest.raises(PrivacyBudgetError, match=r"another one would exceed dp_target_epsilon=2\.0"):
        run.step()
    assert len(run.looked_at) == looked_at and run.opt.log is not None and run.opt.log.intents == most


def test_without_a_target_nothing_is_ever_spent(tmp_path: Path) -> None:
    run = Run(plan_of(steps=3), tmp_path / "log")
    with pytest.raises(Crash):
        run.opt.step([_crash])
    for _ in range(5):
        run.step()
    assert not run.spending.is_spent and run.spending.charged == 6


def test_a_step_without_a_ledger_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs a log, which is its ledger"):
        Run(plan_of()).step()
