"""``zoft-bench memory``: the peak memory of ways of training, predicted before a model is loaded."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoft.cli.config import parse_cli, user_errors
from zoft.errors import ConfigError

if TYPE_CHECKING:
    from zoft.bench.step.workload import Workload

PROG = "zoft-bench memory"


@dataclass
class MemoryArguments:
    """What is predicted, and for what memory."""

    _argument_group_name = "memory"

    model: str = field(
        default="packaged:smollm2-135m-instruct",
        metadata={
            "help": "A packaged model, a folder, a Hub id, or shape:NAME (shape:opt-13b); only its config is read."
        },
    )
    dtype: str = field(default="float32", metadata={"help": "float32, bfloat16 or float16."})
    batch_size: int = field(default=16, metadata={"help": "Rows of the batch."})
    length: int = field(default=64, metadata={"help": "Tokens of each row."})
    loss: str = field(
        default="label", metadata={"help": "label: one-token options after each row; lm: the loss of all tokens."}
    )
    contenders: list[str] | None = field(
        default=None, metadata={"help": "Ways of training, named as for zoft-bench step: mezo:stream, lora/adamw."}
    )
    memory: str | None = field(
        default=None, metadata={"help": "What there is, such as 24GiB: say what fits, and the largest batch that does."}
    )
    measure: bool = field(
        default=False, metadata={"help": "Also load the model, take two steps, and measure, in a process for each."}
    )
    device: str | None = field(default=None, metadata={"help": "Default: cuda if there is one, else cpu."})
    output_file: str | None = field(default=None, metadata={"help": "JSON file for the figures, in bytes."})


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``zoft-bench memory``."""
    parsed = parse_cli(
        sys.argv[1:] if argv is None else argv,
        prog=PROG,
        description="Predict the peak memory of ways of training from the model's configuration alone.",
        groups=(MemoryArguments,),
        training=False,
    )
    with user_errors(PROG):
        try:
            run(parsed.get(MemoryArguments))
        except KeyboardInterrupt:
            print(f"\n{PROG}: interrupted.", file=sys.stderr)
            raise SystemExit(130) from None


def run(options: MemoryArguments) -> None:
    """Predict for the contenders one after the other, print the table, and write the file that was asked for.

    Raises:
        ConfigError: An option is unknown or out of range, or the model has no configuration.
    """
    import torch

    from zoft.bench.memory.fitting import size_in_bytes
    from zoft.bench.memory.predicted import predict
    from zoft.bench.step.contenders import DEFAULT, contender
    from zoft.bench.step.workload import Workload
    from zoft.reporting.memory import MIB, markdown

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    workload = Workload(options.model, options.dtype, options.batch_size, options.length, options.loss, device)
    limit = None if options.memory is None else size_in_bytes(options.memory)
    names = options.contenders or list(DEFAULT)
    for name in names:
        contender(name)
    inference = predict(workload, "forward").total
    results = [_result(workload, name, limit, options.measure) for name in names]
    print(
        f"{workload.model}, {workload.dtype}, {workload.batch_size} x {workload.length} tokens, loss {workload.loss}, "
        f"{device}; plain inference takes {inference / MIB:.0f} MiB"
        f"{'' if options.memory is None else f'; there are {options.memory}'}\n"
    )
    print(markdown(results, inference), flush=True)
    if options.output_file is not None:
        content = {"workload": asdict(workload), "memory": limit, "inference": inference, "results": results}
        try:
            Path(options.output_file).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"output_file {options.output_file!r} cannot be written: {error.strerror}") from None


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
