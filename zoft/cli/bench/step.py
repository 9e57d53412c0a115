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
from zoft.errors import ConfigError

PROG = "zoft-bench step"


@dataclass
class StepArguments:
    """How it is timed, and where the results go."""

    _argument_group_name = "step"

    rounds: int = field(default=5, metadata={"help": "Steps that are timed, each beside plain forwards."})
    output_dir: str | None = field(default=None, metadata={"help": "Folder for step.json, step.png and roofline.png."})


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``zoft-bench step``."""
    parsed = parse_cli(
        sys.argv[1:] if argv is None else argv,
        prog=PROG,
        description="Time a training step of several methods beside plain inference and the shortest time that this "
        "machine allows, and measure memory.",
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
    from torch import OutOfMemoryError

    from zoft.bench.step.ceilings import measure_ceilings
    from zoft.bench.step.measure import measure
    from zoft.bench.step.roofline import bound
    from zoft.checks import check_count
    from zoft.environment import environment
    from zoft.reporting.figures import require_matplotlib
    from zoft.reporting.roofline import ceilings_line
    from zoft.reporting.roofline import plot as plot_roofline
    from zoft.reporting.step import markdown, plot

    check_count("rounds", options.rounds)
    workload, names = training.workload(), training.names()
    folder = None
    if options.output_dir is not None:
        require_matplotlib()
        folder = make_output_dir(options.output_dir)
    print("measuring what the machine can do", file=sys.stderr, flush=True)
    ceilings = measure_ceilings(workload.dtype, workload.device)
    measured = []
    for name in names:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        try:
            measured.append(measure(workload, name, options.rounds))
        except OutOfMemoryError:
            print(f"{PROG}: without {name}: the memory of {workload.device} is too small", file=sys.stderr, flush=True)
    if not measured:
        raise ConfigError("none of this fits into memory; give a smaller --model or --batch_size")
    # Once more, in case the machine was busy then.
    ceilings = ceilings.or_higher(measure_ceilings(workload.dtype, workload.device))
    results: list[dict[str, Any]] = [
        {**asdict(one), "roofline": asdict(bound(one.step_work, ceilings, one.step_seconds))} for one in measured
    ]
    where = environment(workload.device)
    title = f"{workload.model}, {workload.dtype}, {workload.batch_size} x {workload.length} tokens, {where['device']}"
    print(f"{title}; {where['processor']}, {where['threads']} threads, torch {where['torch']}")
    print(f"{ceilings_line(asdict(ceilings))}\n")
    print(markdown(results), flush=True)
    if folder is not None:
        content = {"workload": asdict(workload), "environment": where, "ceilings": asdict(ceilings), "results": results}
        with writing(f"output_dir {options.output_dir!r}"):
            (folder / "step.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            plot(results, title, folder / "step.png")
            plot_roofline(results, asdict(ceilings), title, folder / "roofline.png")
        print(f"wrote step.json, step.png, roofline.png to {folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
