"""Run a function in several gloo processes and collect what each returns."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist

_PRELOAD = ["torch", "zoft.optim", "transformers.trainer", "tests.hf.conftest"]


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun sets."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _work(connection: Any, rank: int, size: int, port: int, function: Callable[..., Any], args: Any) -> None:
    os.environ.update(_environment(rank, size, port))
    torch.set_num_threads(1)
    try:
        if size > 1:
            dist.init_process_group("gloo")
        connection.send((function(*args), None))
    except BaseException as error:
        connection.send((None, (type(error).__name__, str(error), traceback.format_exc())))
    finally:
        connection.close()
        if dist.is_initialized():
            # Destroying the group would wait for processes that have failed.
            os._exit(0)


@contextlib.contextmanager
def started(size: int, function: Callable[..., Any], *args: Any) -> Iterator[list[tuple[Any, Any]]]:
    """Start ``function(*args)`` in ``size`` processes; yield each one's process and connection, in order of rank."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    port, workers = free_port(), []
    for rank in range(size):
        mine, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, rank, size, port, function, args))
        process.start()
        theirs.close()
        workers.append((process, mine))
    try:
        yield workers
    finally:
        for process, _ in workers:
            process.kill()
            process.join()


def outcome(connection: Any, seconds: float = 120) -> tuple[Any, Any]:
    """Return ``(result, None)``, or ``(None, (type, message, traceback))``, of one process."""
    assert connection.poll(seconds), f"no answer in {seconds} s"
    return connection.recv()  # type: ignore[no-any-return]


def run_ranks(size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Return what the function returned in each process; fail with its traceback if it failed in one."""
    with started(size, function, *args) as workers:
        outcomes = [outcome(connection) for _, connection in workers]
    for _, failure in outcomes:
        assert failure is None, failure[2]
    return [result for result, _ in outcomes]


def fail_ranks(size: int, function: Callable[..., Any], *args: Any) -> list[tuple[str, str]]:
    """Return type and message of the error that the function raised in each process."""
    with started(size, function, *args) as workers:
        outcomes = [outcome(connection) for _, connection in workers]
    return [failure[:2] for _, failure in outcomes]
