"""One process writes a log; a killed one holds nothing."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from zoft.errors import ReplayError, ZoftWarning
from zoft.locked_file import LockedFile, check_free

HOLD = """
import sys, time
from pathlib import Path
from zoft.locked_file import LockedFile
held = LockedFile.of(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def held_elsewhere(path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "log").touch()
    return tmp_path / "log"


def test_a_file_that_another_process_writes_is_refused(path: Path) -> None:
    with held_elsewhere(path) as process:
        for attempt in (LockedFile.of, check_free):
            with pytest.raises(ReplayError, match=r"another process is writing .*log: two runs cannot share a folder"):
                attempt(path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        LockedFile.of(path)


def test_a_dropped_file_is_unlocked(path: Path) -> None:
    file = LockedFile.of(path)
    descriptor = file.descriptor
    del file
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    with held_elsewhere(path):
        pass


def test_one_process_shares_one_lock(path: Path) -> None:
    first, second = LockedFile.of(path), LockedFile.of(path)
    assert second is first
    del first
    with pytest.raises(AssertionError), held_elsewhere(path):
        pass


def test_a_file_that_was_moved_away_while_waiting_is_not_taken_for_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def moved(descriptor: int, operation: int) -> None:
        os.replace(path, path.with_name("log.1"))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", moved)
    with pytest.raises(ReplayError, match="another process is writing"):
        LockedFile.of(path)


FORK = """
import os, signal, sys
from pathlib import Path
from zoft.locked_file import LockedFile
held = LockedFile.of(Path(sys.argv[1]))
child = os.fork()
if child == 0:
    print(os.getpid(), held.descriptor, flush=True)
    signal.pause()
signal.pause()
"""


def test_a_worker_that_outlives_its_killed_run_does_not_keep_the_lock(path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", FORK, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker, descriptor = map(int, process.stdout.readline().split())
    try:
        assert descriptor == -1
        with pytest.raises(ReplayError, match="another process is writing"):
            LockedFile.of(path)
        process.kill()
        process.wait()
        os.kill(worker, 0)
        LockedFile.of(path)
    finally:
        os.kill(worker, signal.SIGKILL)
        process.kill()
        process.communicate()


def test_a_file_system_without_locks_is_worked_on_with_a_warning(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.warns(ZoftWarning, match="cannot be locked here .* start one at a time"):
        file = LockedFile.of(path)
    os.pwrite(file.descriptor, b"x", 0)
    assert path.read_bytes() == b"x"


def test_a_missing_file_is_free_and_is_made_only_on_request(tmp_path: Path) -> None:
    check_free(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        LockedFile.of(tmp_path / "none")
    LockedFile.of(tmp_path / "none", create=True)
    assert (tmp_path / "none").exists()
