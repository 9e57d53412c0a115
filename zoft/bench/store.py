"""Results on disk: one JSON file a run, named after the run, whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from zoft.bench.run import Run
from zoft.bench.tuning import Results
from zoft.errors import BenchmarkError


class Store:
    """The folder ``runs`` of a benchmark.

    A file is written under another name first and renamed when it is complete, so that a benchmark that is killed
    leaves no half result. Two benchmarks may share a folder: a run's name says all that defines it.
    """

    def __init__(self, output_dir: Path) -> None:
        self._folder = output_dir / "runs"

    def write(self, run: Run, result: dict[str, Any]) -> None:
        """Keep a run's result, in place of an earlier one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f".{run.id}.{os.getpid()}.partial"
        partial.write_text(json.dumps(result) + "\n", encoding="utf-8")
        partial.replace(self._folder / f"{run.id}.json")

    def read(self) -> Results:
        """Return all results by run id.

        Raises:
            BenchmarkError: If a file is damaged, as a power cut may leave it.
        """
        results = {}
        for path in sorted(self._folder.glob("*.json")):
            try:
                results[path.stem] = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise BenchmarkError(f"{path} is damaged ({error}). Delete it; the run is then made again.") from None
        return results
