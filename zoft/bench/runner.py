"""Making the planned runs, on several processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch
from tqdm import tqdm

from zoft.bench.run import Run
from zoft.bench.store import Store
from zoft.bench.suite import Suite
from zoft.bench.tuning import plan
from zoft.environment import environment
from zoft.errors import BenchmarkError, ConfigError


def run_suite(suite: Suite, store: Store, methods: Sequence[str], jobs: int) -> None:
    """Make all runs of a suite that are not there yet; runs that failed earlier are tried again.

    Each run has one process to itself, and the processes share the cores: each has as many threads as torch would
    take here (``OMP_NUM_THREADS`` says how many), but together they have at most one for each core.

    Raises:
        ConfigError: If the suite's device is not there.
        BenchmarkError: If a process was killed; finished runs are kept, and starting again goes on.
    """
    if torch.device(suite.device).type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {suite.device!r}: there is no GPU that torch can use; use cpu.")
    results = {id_: result for id_, result in store.read().items() if result["status"] != "failed"}
    threads = max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // jobs))
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read when a worker loads its OpenMP, before any code of ours
    spawn = multiprocessing.get_context("spawn")  # a fork would copy threads' locks, and CUDA forbids it
    with (
        ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_start, initargs=(threads,)) as pool,
        tqdm(desc=suite.name, unit="run", total=0, smoothing=0.02) as bar,
    ):
        while runs := plan(suite, results, methods):
            bar.total += len(runs)
            futures = {pool.submit(attempt, run): run for run in runs}
            try:
                for future in as_completed(futures):
                    run, result = futures[future], future.result()
                    store.write(run, result)
                    results[run.id] = result
                    bar.update()
            except BrokenProcessPool:
                raise BenchmarkError(
                    "a worker process was killed, perhaps for the memory it took. Finished runs are kept: start "
                    "again to go on, with fewer --jobs if memory is short."
                ) from None
            except BaseException:  # Ctrl-C above all: what has not begun must not begin
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def attempt(run: Run) -> dict[str, Any]:
    """Make a run; whatever it raises becomes a result with status ``failed``, so that others go on."""
    from zoft.bench.execute import execute

    try:
        result = execute(run)
    except Exception as error:
        result = {
            "run": dict(vars(run)),
            "status": "failed",
            "message": f"{type(error).__name__}: {error}",
            "traceback": traceback.format_exc(),
        }
    return {**result, "environment": environment(run.device)}


def _start(threads: int) -> None:
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed cannot tell its workers, who would go on to the ends of their runs, for nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
