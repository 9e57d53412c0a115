"""``zoft-bench memory``: the peak memory of ways of training, predicted before a model is loaded."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from zoft.cli.bench.training_ways import TrainingWays
from zoft.cli.config import parse_cli, user_errors
from zoft.cli.output_files import write_json

if TYPE_CHECKING:
    from zoft.bench.step.workload import Workload

PROG = "zoft-bench memory"


@dataclass
class MemoryArguments:
    """For what memory it is predicted, and where the figures go."""

    _argument_group_name = "memory"

    memory: str | None = field(
        default=None, metadata={"help": "What there is, such as 24GiB: say what fits, and the largest batch that does."}
    )
    measure: bool = field(
        default=False, metadata={"help": "Also load the model, take two steps, and measure, in a process for each."}
    )
    output_file: str | None = field(default=None, metadata={"help": "JSON file for the figures, in bytes."})


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``zoft-bench memory``."""
    parsed = parse_cli(
        sys.argv[1:] if argv is None else argv,
        prog=PROG,
        description="Predict the peak memory of ways of training from the model's configuration alone.",
        groups=(TrainingWays, MemoryArguments),
        training=False,
    )
    with user_errors(PROG, interrupted="interrupted."):
        run(parsed.get(TrainingWays), parsed.get(MemoryArguments))


def run(training: TrainingWays, options: MemoryArguments) -> None:
    """Predict for the contenders one after the other, print the table, and write the file that was asked for.

    Raises:
        ConfigError: An option is unknown or out of range, or the model has no configuration.
    """
    from zoft.bench.memory.fitting import size_in_bytes
    from zoft.bench.memory.predicted import predict
    from zoft.reporting.memory import MIB, markdown

    workload, names = training.workload(), training.names()
    limit = None if options.memory is None else size_in_bytes(options.memory)
    inference = predict(workload, "forward").total
    results = [_result(workload, name, limit, options.measure) for name in names]
    print(
        f"{workload.model}, {workload.dtype}, {workload.batch_size} x {workload.length} tokens, loss {workload.loss}, "
        f"{workload.device}; plain inference takes {inference / MIB:.0f} MiB"
        f"{'' if options.memory is None else f'; there are {options.memory}'}\n"
    )
    print(markdown(results, inference), flush=True)
    if options.output_file is not None:
        content = {"workload": asdict(workload), "memory": limit, "inference": inference, "results": results}
        write_json(options.output_file, content)


def _result(workload: Workload, name: str, limit: int | None, measure: bool) -> dict[str, Any]:
    from zoft.bench.memory.fitting import largest_batch
    from zoft.bench.memory.measured import measure_peak
    from zoft.bench.memory.predicted import predict

    print(f"predicting {name}", file=sys.stderr, flush=True)
    prediction = predict(workload, name)

    def peak(batch_size: int) -> int:
        return predict(replace(workload, batch_size=batch_size), name).total

    return {
        **asdict(prediction),
        "total": prediction.total,
        "fits": None if limit is None else prediction.total <= limit,
        "largest_batch": None if limit is None else largest_batch(peak, limit, workload.batch_size),
        "measured": measure_peak(workload, name) if measure else None,
    }


if __name__ == "__main__":
    main()
