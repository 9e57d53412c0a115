"""Runs in this process, where a test need not wait for others to start."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from zoft.bench import runner


class Inline:
    """Stands in for the pool of processes: makes each run at once, in this one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def submit(self, function: Any, run: Any) -> Any:
        future: Future[Any] = Future()
        future.set_result(function(run))
        return future

    def shutdown(self, **kwargs: Any) -> None:
        pass


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make runs in this process."""
    monkeypatch.setattr(runner, "ProcessPoolExecutor", Inline)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the runner sets it for its workers, and it must not stay set
