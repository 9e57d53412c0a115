"""``zoft-bench step``: what one training step costs beside plain inference, on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from zoft.cli.bench.training_ways import TrainingWays
from zoft.cli.config import parse_cli, user_errors
from zoft.cli.output_files import make_output_dir, writing

PROG = "zoft-bench step"


@dataclass
class StepArguments:
    """How it is timed, and where the results go."""

    _argument_group_name = "step"

    rounds: int = field(default=5, metadata={"help": "Steps that are timed, each beside plain forwards."})
    output_dir: str | None = field(default=None, metadata={"help": "Folder for step.json and step.png."})


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``zoft-bench step``."""
    parsed = parse_cli(
        sys.argv[1:] if argv is None else argv,
        prog=PROG,
        description="Time a training step of several methods beside plain inference, and measure memory.",
        groups=(TrainingWays, StepArguments),
        training=False,
    )
    with user_errors(PROG, interrupted="interrupted."):
        run(parsed.get(TrainingWays), parsed.get(StepArguments))


def run(training: TrainingWays, options: StepArguments) -> None:
    """Measure the contenders one after the other, print the table, and write the files that were asked for.

    Raises:
        ConfigError: An option is unknown or out of range.
    """
    from zoft.bench.step.measure import measure
    from zoft.checks import check_count
    from zoft.environment import environment
    from zoft.reporting.figures import require_matplotlib
    from zoft.reporting.step import markdown, plot

    check_count("rounds", options.rounds)
    workload, names = training.workload(), training.names()
    folder = None
    if options.output_dir is not None:
        require_matplotlib()
        folder = make_output_dir(options.output_dir)
    results: list[dict[str, Any]] = []
    for name in names:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        results.append(asdict(measure(workload, name, options.rounds)))
    where = environment(workload.device)
    title = f"{workload.model}, {workload.dtype}, {workload.batch_size} x {workload.length} tokens, {where['device']}"
    print(f"{title}; {where['processor']}, {where['threads']} threads, torch {where['torch']}\n")
    print(markdown(results), flush=True)
    if folder is not None:
        content = {"workload": asdict(workload), "environment": where, "results": results}
        with writing(f"output_dir {options.output_dir!r}"):
            (folder / "step.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            plot(results, title, folder / "step.png")
        print(f"wrote step.json, step.png to {folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
