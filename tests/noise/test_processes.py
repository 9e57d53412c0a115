"""The kernels survive forks and serve several Python threads at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from noise_checks import assert_same_bits

from zoft import noise
from zoft.noise import Span, Term

KEY = noise.run_key(8)
COUNT = 400_003  # enough that two threads share the work


def direction(step: int = 1) -> torch.Tensor:
    # Zeros by NumPy: torch's own parallel operators hang in a forked process.
    out = torch.from_numpy(np.zeros(COUNT, np.float32))
    noise.combine([Span(out, out, 0)], [Term(step, 0, 1.0)], key=KEY, distribution="gaussian")
    return out


def _send_direction(channel: multiprocessing.connection.Connection) -> None:  # type: ignore[name-defined]
    torch.set_num_threads(2)
    channel.send_bytes(direction().numpy().tobytes())
    channel.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_gets_the_same_bits_and_does_not_hang(set_threads: Callable[[int], None]) -> None:
    set_threads(2)
    before = direction()  # the parent's threads now exist, and will not in the child
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forking with threads
        child = os.fork()
    if child == 0:
        signal.alarm(60)  # a deadlock ends the child, hence the pipe, hence the test
        try:
            os.close(reader)
            with os.fdopen(writer, "wb") as sink:
                sink.write(direction().numpy().tobytes())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as source:
        received = source.read()
    os.waitpid(child, 0)
    assert received == before.numpy().tobytes()
    assert_same_bits(direction(), before)


@pytest.mark.parametrize("method", [m for m in ("fork", "spawn") if m in multiprocessing.get_all_start_methods()])
def test_a_child_process_gets_the_same_bits(method: str, set_threads: Callable[[int], None]) -> None:
    set_threads(2)
    before = direction()
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process = context.Process(target=_send_direction, args=(sender,), daemon=True)
        process.start()
    try:
        assert receiver.poll(60), "the child did not answer"
        assert receiver.recv_bytes() == before.numpy().tobytes()
    finally:
        process.join(10)
        process.kill()


@pytest.mark.parametrize("threads", [1, 2])
def test_concurrent_calls_do_not_disturb_each_other(threads: int, set_threads: Callable[[int], None]) -> None:
    set_threads(threads)
    want = [direction(step) for step in range(4)]
    got: dict[int, list[torch.Tensor]] = {step: [] for step in range(4)}
    barrier = threading.Barrier(4)

    def work(step: int) -> None:
        barrier.wait(30)
        got[step] = [direction(step) for _ in range(5)]

    workers = [threading.Thread(target=work, args=(step,)) for step in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    for step in range(4):
        assert len(got[step]) == 5
        for result in got[step]:
            assert_same_bits(result, want[step])


def test_a_change_of_the_thread_count_between_calls_is_taken_up(set_threads: Callable[[int], None]) -> None:
    results = []
    for threads in (1, 3, 2, 1, 4):
        set_threads(threads)
        results.append(direction())
    for result in results[1:]:
        assert_same_bits(result, results[0])
