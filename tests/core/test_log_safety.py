"""What may happen to a log: full disks, second runs, folders that cannot be written. Its run loses nothing."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import zoft
from tests.core.conftest import make
from tests.core.runs import digest, start
from tests.core.test_replay import record_size
from tests.test_locked_file import held_elsewhere
from zoft.errors import ReplayError
from zoft.log_file import ReplayLog, branch
from zoft.updates import sgd


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file can become longer, as on a full disk: the last write may be cut short."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN, "Python turns it into an error"
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 7], ids=["no room", "room for 7 bytes"])
@pytest.mark.parametrize("how", ["the same process", "a resumed run"])
def test_a_full_disk_stops_the_run_before_the_weights_move(how: str, room: int, tmp_path: Path) -> None:
    whole = start(tmp_path / "whole").steps(0, 4)
    run = start(tmp_path / "log").steps(0, 2)
    before = digest(run.model)
    with disk_of((tmp_path / "log").stat().st_size + room):
        for _ in range(2):
            with pytest.raises(ReplayError, match=r"step 2.* make room"):
                run.step(2)
    assert digest(run.model) == before and run.opt.engine.step == 2
    if how == "a resumed run":
        run.opt.close_log()
        run = start()
        assert run.opt.resume_log(tmp_path / "log") == 2
        run.steps(0, 2)
    run.steps(2, 4)
    assert digest(run.model) == digest(whole.model)
    assert (tmp_path / "log").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_disk_too_full_for_the_header_leaves_the_earlier_log_in_place(tmp_path: Path) -> None:
    start(tmp_path / "log").steps(0, 2)
    before = (tmp_path / "log").read_bytes()
    with disk_of(100), pytest.raises(ReplayError, match=r"no replay log can be started at .*: File too large"):
        start(tmp_path / "log", seed=1)
    assert (tmp_path / "log").read_bytes() == before and not (tmp_path / "log.1").exists()
    start(tmp_path / "log", seed=1)
    assert (tmp_path / "log.1").read_bytes() == before and not (tmp_path / "log.new").exists()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ReplayError, match=r"no replay log can be started at .*"):
        start(tmp_path / "file" / "log")


def test_a_log_that_another_process_writes_is_neither_resumed_nor_put_aside_but_can_be_read(tmp_path: Path) -> None:
    run = start(tmp_path / "log").steps(0, 2)
    run.opt.close_log()
    before = (tmp_path / "log").read_bytes()
    with held_elsewhere(tmp_path / "log"):
        with pytest.raises(ReplayError, match="another process is writing"):
            start().opt.resume_log(tmp_path / "log")
        with pytest.raises(ReplayError, match="another process is writing"):
            start(tmp_path / "log")
        with pytest.raises(ReplayError, match="another process is writing"):
            run.step(2)
        base, _ = make("llama")
        assert zoft.replay(base, tmp_path / "log") == 2
    assert (tmp_path / "log").read_bytes() == before and not (tmp_path / "log.1").exists()
    run.step(2)


@pytest.mark.parametrize("how", ["started", "resumed", "appended to"])
def test_a_run_holds_its_log_from_the_start_until_it_is_closed(how: str, tmp_path: Path) -> None:
    run = start(tmp_path / "log")
    if how == "resumed":
        run.opt.close_log()
        run.opt.resume_log(tmp_path / "log")
    if how == "appended to":
        run.opt.close_log()
        run.step(0)
    with pytest.raises(AssertionError), held_elsewhere(tmp_path / "log"):
        pass
    run.opt.close_log()
    with held_elsewhere(tmp_path / "log"):
        pass


def test_two_runs_that_start_at_once_in_one_folder_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "log.new").touch()
    with held_elsewhere(tmp_path / "log.new"), pytest.raises(ReplayError, match="another process is writing"):
        start(tmp_path / "log")
    assert not (tmp_path / "log").exists()


def test_a_log_that_another_run_went_on_with_is_not_written_over(tmp_path: Path) -> None:
    first = start(tmp_path / "log").steps(0, 2)
    second = start()
    second.opt.resume_log(tmp_path / "log")
    second.steps(0, 3)
    before = (tmp_path / "log").read_bytes()
    weights = digest(first.model)
    with pytest.raises(ReplayError, match="another run went on with it"):
        first.step(2)
    assert (tmp_path / "log").read_bytes() == before and digest(first.model) == weights


def test_a_longer_torn_tail_is_cut_and_not_only_written_over(tmp_path: Path) -> None:
    start(tmp_path / "log").steps(0, 3).opt.close_log()
    content, size = (tmp_path / "log").read_bytes(), record_size(tmp_path / "log", 3)
    (tmp_path / "log").write_bytes(content[:-size] + bytes(2 * size - 1))
    run = start()
    assert run.opt.resume_log(tmp_path / "log") == 2
    run.steps(0, 3)
    assert (tmp_path / "log").read_bytes() == content


def test_flushing_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    start().opt.flush_log()  # without a log there is nothing to flush
    run = start(tmp_path / "log").steps(0, 1)
    monkeypatch.setattr(os, "fsync", flushed.append)
    run.opt.flush_log()
    run.opt.close_log()
    assert len(flushed) == 2


def test_a_branch_goes_on_from_an_earlier_step_with_another_learning_rate(tmp_path: Path) -> None:
    run = start(tmp_path / "zo_log", schedule=False).steps(0, 5)
    run.opt.close_log()
    before = (tmp_path / "zo_log").read_bytes()
    branch(ReplayLog.open(tmp_path / "zo_log"), 3, tmp_path / "branch")
    beginning = before[: len(before) - 2 * record_size(tmp_path / "zo_log", 5)]
    assert (tmp_path / "branch" / "zo_log").read_bytes() == beginning
    other = start(schedule=False, lr=1e-4)
    assert other.opt.resume_log(tmp_path / "branch" / "zo_log") == 3
    with pytest.warns(zoft.ZoftWarning, match="the log is followed"):
        other.step(0)
    other.steps(1, 5)
    base, _ = make("llama")
    zoft.replay(base, tmp_path / "branch" / "zo_log")
    assert digest(base) == digest(other.model) != digest(run.model)
    assert (tmp_path / "zo_log").read_bytes() == before
    with pytest.raises(ReplayError, match="a branch needs a folder of its own"):
        branch(ReplayLog.open(tmp_path / "zo_log"), 3, tmp_path)


def test_ctrl_c_during_a_replay_stops_between_two_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(tmp_path / "log").steps(0, 5)
    base, _ = make("llama")
    write = sgd.write_weights
    calls = 0

    def interrupted(*args: object, **kwargs: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            signal.raise_signal(signal.SIGINT)
        write(*args, **kwargs)

    monkeypatch.setattr(sgd, "write_weights", interrupted)
    with pytest.raises(KeyboardInterrupt):
        zoft.replay(base, tmp_path / "log")
    monkeypatch.undo()
    there, _ = make("llama")
    zoft.replay(there, tmp_path / "log", upto_step=3)
    assert digest(base) == digest(there)
