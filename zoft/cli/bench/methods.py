"""``zoft-bench methods --config suite.yaml``: zeroth-, first- and second-order methods on equal terms."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zoft
from zoft.bench.suite import Suite, only
from zoft.cli.config import parse_cli, user_errors
from zoft.cli.output_files import make_output_dir, write_json
from zoft.errors import BenchmarkError, ConfigError

if TYPE_CHECKING:
    from zoft.bench.store import Store

PROG = "zoft-bench methods"

SMALL_TIER = Path(zoft.__file__).parent.parent / "recipes" / "bench" / "small.yaml"

TRIAL_FORWARDS = 40  # of the short runs from which --dry_run estimates
LONG_SECONDS = 20.0  # a trial as long as this is not repeated


@dataclass
class BenchArguments:
    """What to do with the suite."""

    _argument_group_name = "bench"

    output_dir: str | None = field(
        default=None, metadata={"help": "Where results go, and where an interrupted benchmark goes on; bench-NAME."}
    )
    jobs: int | None = field(default=None, metadata={"help": "Processes, one run each; default: one a core."})
    only: list[str] = field(default_factory=list, metadata={"help": "Of the suite's methods run these alone."})
    dry_run: bool = field(
        default=False, metadata={"help": "Say what would be run, how many forwards and about how long it takes."}
    )
    summary: bool = field(default=False, metadata={"help": "Run nothing: read the results that are there."})
    golden: str | None = field(
        default=None, metadata={"help": "Compare with this committed summary at the end; a difference is an error."}
    )
    write_golden: str | None = field(default=None, metadata={"help": "Write such a summary to this file."})


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``zoft-bench methods``; without ``--config`` it runs the small tier."""
    argv = list(sys.argv[1:] if argv is None else argv)
    with user_errors(PROG):
        if not any(a.partition("=")[0] == "--config" for a in argv) and not {"-h", "--help", "--help_all"} & {*argv}:
            if not SMALL_TIER.is_file():
                raise ConfigError("outside a clone of zoft there is no small tier: name a suite with --config")
            argv = ["--config", str(SMALL_TIER), *argv]
    parsed = parse_cli(
        argv,
        prog=PROG,
        description="Compare methods at equal forwards, tuned by one rule; without --config: the small tier, minutes "
        "on two cores.",
        groups=(Suite, BenchArguments),
        training=False,
    )
    with user_errors(PROG, interrupted="interrupted. Finished runs are kept; the same command goes on."):
        run(parsed.get(Suite), parsed.get(BenchArguments))


def run(suite: Suite, options: BenchArguments) -> None:
    """Run what is missing, then write and print the summary.

    Raises:
        ConfigError: If the suite or an option cannot be used.
        BenchmarkError: If a worker process was killed, runs failed, or the results differ from the golden ones.
    """
    from zoft.bench.golden import golden
    from zoft.bench.runner import run_suite
    from zoft.bench.store import Store
    from zoft.bench.summary import summarise, write_parquet
    from zoft.bench.tuning import used
    from zoft.reporting.methods import markdown, plot

    for module, extra in (("sklearn", "bench"), ("matplotlib", "report")):
        if find_spec(module) is None:
            raise ConfigError(f"{module} is not installed; run: pip install 'zoft[{extra}]'")
    suite.check()
    methods = only(suite, options.only)
    jobs = (os.cpu_count() or 1) if options.jobs is None else options.jobs
    if jobs < 1:
        raise ConfigError(f"jobs must be an integer >= 1, got {jobs}")
    folder = Path(options.output_dir or f"bench-{suite.name}")
    store = Store(folder)
    expected = _read_golden(options.golden) if options.golden else {}
    if options.dry_run:
        _estimate(suite, store, methods, jobs)
        return
    if not options.summary:
        make_output_dir(str(folder))
        run_suite(suite, store, methods, jobs)
    results = used(suite, store.read(), methods)
    if not results:
        raise ConfigError(f"{folder} holds no results of this suite; run it without --summary, or name output_dir")
    # Through JSON, so that what is drawn now is what is drawn when the file is read again.
    summary = json.loads(json.dumps(summarise(suite, results, methods)))
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    write_parquet(results.values(), folder / "runs.parquet")
    text = markdown(summary)
    (folder / "summary.md").write_text(text, encoding="utf-8")
    print(text, flush=True)
    drawn = plot(summary, folder)
    names = ["summary.md", "summary.json", "runs.parquet", *(path.name for path in drawn)]
    print(f"wrote {', '.join(names)} to {folder}", flush=True)
    if options.write_golden:
        write_json(options.write_golden, golden(summary))
    if options.golden:
        _compare(expected, summary)
    if summary["failures"]:
        raise BenchmarkError(
            f"{len(summary['failures'])} runs failed, and are made again next time; the first: {summary['failures'][0]}"
        )


def _estimate(suite: Suite, store: Store, methods: Sequence[str], jobs: int) -> None:
    """Say what is still to be run; the time comes from a short run of the reference on each problem."""
    from zoft.bench.execute import execute
    from zoft.bench.tuning import count_missing, takes_lr

    results = store.read()
    total, seconds = 0, 0.0
    for problem in suite.problem_names:
        runs = sum(count_missing(suite, results, problem, method) for method in suite.methods_on(problem, methods))
        if not runs:
            print(f"{problem}: nothing left to run", flush=True)
            continue
        lr = 0.0 if takes_lr(suite, suite.reference, problem) else None
        trial = suite.run(problem, suite.reference, lr, suite.tuning_seed, "tuning")
        trial = replace(trial, budget_forwards=TRIAL_FORWARDS, evaluations=1)
        result, took = _timed(partial(execute, trial))
        if took < LONG_SECONDS:  # of a short one much went into what later runs find done: compiling, converting
            result, took = _timed(partial(execute, trial))
        beside = took - result["seconds"]  # loading, and evaluating the dev split twice
        one = result["seconds"] / result["forwards"] * suite.budget_forwards + beside * (suite.evaluations + 2) / 2
        print(f"{problem}: {runs} runs of {suite.budget_forwards} forwards, about {one:.2g} s each", flush=True)
        total, seconds = total + runs, seconds + runs * one
    print(
        f"{len(methods)} methods, {total} runs, {total * suite.budget_forwards:,} forwards, about "
        f"{seconds / 60 / jobs:.1f} minutes with {jobs} jobs if all methods are as fast as {suite.reference}; more "
        "where grids of learning rates have to grow",
        flush=True,
    )


def _timed(work: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], float]:
    """Return what a piece of work returns, and the seconds that it takes."""
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def _read_golden(path: str) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"golden: {path} cannot be read: {error}; --write_golden writes such a file") from None
    if not isinstance(read, dict) or "problems" not in read:
        raise ConfigError(f"golden: {path} is no golden summary; --write_golden writes one")
    return read


def _compare(expected: dict[str, Any], summary: dict[str, Any]) -> None:
    from zoft.bench.golden import differences

    losses = {
        name: {method: of["scores"]["test"]["loss"][0] for method, of in problem["methods"].items()}
        for name, problem in summary["problems"].items()
    }
    found = differences(expected, losses)
    if found:
        raise BenchmarkError("the results are not the golden ones:\n" + "\n".join(found))
    print("the results are the golden ones, within tolerance", flush=True)
