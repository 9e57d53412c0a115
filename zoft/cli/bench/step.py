"""``zoft-bench step``: what one training step costs beside plain inference, on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zoft.cli.config import parse_cli, user_errors
from zoft.errors import ConfigError

PROG = "zoft-bench step"


@dataclass
class StepArguments:
    """What is timed, and where the results go."""

    _argument_group_name = "step"

    model: str = field(
        default="packaged:smollm2-135m-instruct",
        metadata={"help": "A packaged model, a folder, a Hub id, or shape:NAME with random weights (shape:opt-13b)."},
    )
    dtype: str = field(default="float32", metadata={"help": "float32, bfloat16 or float16."})
    batch_size: int = field(default=16, metadata={"help": "Rows of the batch."})
    length: int = field(default=64, metadata={"help": "Tokens of each row."})
    loss: str = field(
        default="label", metadata={"help": "label: one-token options after each row; lm: the loss of all tokens."}
    )
    contenders: list[str] | None = field(
        default=None,
        metadata={
            "help": "Ways of training: [lora/]NAME[*QUERIES][:PLACEMENT], NAME a method, forward, as-written (MeZO's "
            "own code), sgd or adamw."
        },
    )
    rounds: int = field(default=5, metadata={"help": "Steps that are timed, each beside plain forwards."})
    device: str | None = field(default=None, metadata={"help": "Default: cuda if there is one, else cpu."})
    output_dir: str | None = field(default=None, metadata={"help": "Folder for step.json and step.png."})


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``zoft-bench step``."""
    parsed = parse_cli(
        sys.argv[1:] if argv is None else argv,
        prog=PROG,
        description="Time a training step of several methods beside plain inference, and measure memory.",
        groups=(StepArguments,),
        training=False,
    )
    with user_errors(PROG):
        try:
            run(parsed.get(StepArguments))
        except KeyboardInterrupt:
            print(f"\n{PROG}: interrupted.", file=sys.stderr)
            raise SystemExit(130) from None


def run(options: StepArguments) -> None:
    """Measure the contenders one after the other, print the table, and write the files that were asked for.

    Raises:
        ConfigError: An option is unknown or out of range.
    """
    import torch

    from zoft.bench.step.contenders import DEFAULT, contender
    from zoft.bench.step.measure import measure
    from zoft.bench.step.workload import Workload
    from zoft.checks import check_count
    from zoft.environment import environment
    from zoft.reporting.figures import require_matplotlib
    from zoft.reporting.step import markdown, plot

    check_count("rounds", options.rounds)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    workload = Workload(options.model, options.dtype, options.batch_size, options.length, options.loss, device)
    names = options.contenders or list(DEFAULT)
    for name in names:
        contender(name)
    folder = None if options.output_dir is None else Path(options.output_dir)
    if folder is not None:
        require_matplotlib()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"output_dir {str(folder)!r} cannot be written: {error.strerror}") from None
    results: list[dict[str, Any]] = []
    for name in names:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        results.append(asdict(measure(workload, name, options.rounds)))
    where = environment(device)
    title = f"{workload.model}, {workload.dtype}, {workload.batch_size} x {workload.length} tokens, {where['device']}"
    print(f"{title}; {where['processor']}, {where['threads']} threads, torch {where['torch']}\n")
    print(markdown(results), flush=True)
    if folder is not None:
        content = {"workload": asdict(workload), "environment": where, "results": results}
        (folder / "step.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        plot(results, title, folder / "step.png")
        print(f"wrote step.json, step.png to {folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
