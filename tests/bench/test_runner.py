"""A benchmark that is killed goes on where it was; what fails is reported, and others go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.bench.suites import PROBLEM, result, suite
from zoft.bench import runner
from zoft.bench.store import Store
from zoft.bench.tuning import plan, used

SCRIPT = """
import os
import sys
import time
from pathlib import Path

from tests.bench.suites import suite
from zoft.bench import runner
from zoft.bench.store import Store


def die(run):
    os.kill(os.getpid(), 9)


def hang(run):
    Path(sys.argv[1], "worker").touch()
    time.sleep(3600)


if __name__ == "__main__":
    runner.attempt = {attempt}
    runner.run_suite(suite(budget_forwards=2000), Store(Path(sys.argv[1])), ("mezo", "fo_sgd"), jobs=1)
"""


def start(script: Path, folder: Path, attempt: str) -> subprocess.Popen[str]:
    """Run the suite in a process of its own, whose worker calls ``attempt`` for each run."""
    script.write_text(SCRIPT.format(attempt=attempt))
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(folder)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def test_a_finished_suite_has_nothing_left_to_run(
    inline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, store = suite(), Store(tmp_path)
    runner.run_suite(made, store, made.method_names, jobs=1)
    results = store.read()
    assert plan(made, results, made.method_names) == []
    assert len(used(made, results, made.method_names)) == len(results)
    monkeypatch.setattr(runner, "attempt", lambda run: pytest.fail(f"{run} was made again"))
    runner.run_suite(made, store, made.method_names, jobs=1)


def test_what_failed_is_tried_again_the_next_time(
    inline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, store = suite(methods=["so_lbfgs"], reference="so_lbfgs"), Store(tmp_path)
    monkeypatch.setattr(runner, "attempt", lambda run: result(run, 0.0, "failed"))
    runner.run_suite(made, store, made.method_names, jobs=1)
    assert {r["status"] for r in store.read().values()} == {"failed"}
    monkeypatch.setattr(runner, "attempt", lambda run: result(run, 0.5))
    runner.run_suite(made, store, made.method_names, jobs=1)
    assert {r["status"] for r in store.read().values()} == {"done"}


def test_one_failure_does_not_keep_others_from_running(inline: None, tmp_path: Path) -> None:
    """BFGS refuses so many weights; L-BFGS does not care."""
    made = suite(
        problems={"digits": {**PROBLEM, "dataset": "digits", "hidden": [32]}},
        methods=["so_bfgs", "so_lbfgs"],
        reference="so_lbfgs",
    )
    store = Store(tmp_path)
    runner.run_suite(made, store, made.method_names, jobs=1)
    statuses = {(r["run"]["method"], r["status"]) for r in store.read().values()}
    assert statuses == {("so_bfgs", "failed"), ("so_lbfgs", "done")}


def test_half_a_result_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies while it writes leaves a file that is never read as a result."""
    store, run = Store(tmp_path), suite().run("cancer", "mezo", 1e-2, 0, "final")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.write(run, result(run, 0.5))
    assert list((tmp_path / "runs").iterdir()) and store.read() == {}
    store.write(run, result(run, 0.5))
    assert list(store.read()) == [run.id]


@pytest.mark.slow
def test_a_benchmark_that_was_killed_goes_on_and_ends_as_one_that_was_not(tmp_path: Path) -> None:
    script, killed, whole = tmp_path / "script.py", tmp_path / "killed", tmp_path / "whole"
    process = start(script, killed, "runner.attempt")
    while len(before := list(killed.glob("runs/*.json"))) < 4:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    stamps = {path: path.stat().st_mtime_ns for path in before}
    for folder in (killed, whole):
        process = start(script, folder, "runner.attempt")
        message = process.communicate(timeout=500)[1]
        assert process.returncode == 0, message
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items()), "none was made again"

    def scores(folder: Path) -> dict[str, Any]:
        return {path.name: json.loads(path.read_text())["scores"] for path in folder.glob("runs/*.json")}

    assert scores(killed) == scores(whole) and len(scores(whole)) >= 2 * (5 + 9)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_named_and_not_waited_for(tmp_path: Path) -> None:
    process = start(tmp_path / "script.py", tmp_path, "die")
    message = process.communicate(timeout=300)[1]
    assert process.returncode == 1 and "BenchmarkError: a worker process was killed" in message


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_a_benchmark_that_is_killed(how: signal.Signals, tmp_path: Path) -> None:
    """The worker alone is told nothing, and its run would take an hour."""
    process = start(tmp_path / "script.py", tmp_path, "hang")
    told = tmp_path / "worker"
    while not told.exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, how)
    process.communicate(timeout=60)  # ends when nobody holds stderr
