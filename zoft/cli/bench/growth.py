"""``zoft-bench growth``: how a training step's time grows with the model and with the batch, on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoft.cli.bench.training_ways import TrainingWays
from zoft.cli.config import parse_cli, user_errors
from zoft.cli.output_files import make_output_dir, writing
from zoft.errors import ConfigError

if TYPE_CHECKING:
    from zoft.bench.step.growth import Point
    from zoft.bench.step.measure import Figures
    from zoft.bench.step.workload import Workload

PROG = "zoft-bench growth"


@dataclass
class GrowthWays(TrainingWays):
    """What is trained, in which ways, while the other of model and batch grows."""

    model: str = field(
        default="shape:llama:30M",
        metadata={"help": "The model whose batch grows: as zoft-bench step takes it, shape:llama:30M for example."},
    )
    batch_size: int = field(default=16, metadata={"help": "Rows of the batch on which models grow."})
    contenders: list[str] | None = field(
        default_factory=lambda: ["mezo:stream", "lora/mezo"],
        metadata={"help": "Ways of training, as zoft-bench step takes them: lozo:stream, adamw."},
    )


@dataclass
class GrowthArguments:
    """What grows, how it is timed, and where the results go."""

    _argument_group_name = "growth"

    sizes: list[str] = field(
        default_factory=lambda: ["10M", "30M", "100M", "300M"],
        metadata={"help": "Parameters of Llamas with random weights, up to what memory allows: 1B."},
    )
    batch_sizes: list[int] = field(
        default_factory=lambda: [1, 4, 16, 64], metadata={"help": "Rows of the batches that grow, of `length` tokens."}
    )
    rounds: int = field(default=5, metadata={"help": "Steps that are timed, each beside plain forwards."})
    memory: str | None = field(
        default=None, metadata={"help": "What may be used, such as 24GiB; default: what is free. More is not tried."}
    )
    output_dir: str | None = field(default=None, metadata={"help": "Folder for growth.json and growth.png."})


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``zoft-bench growth``."""
    parsed = parse_cli(
        sys.argv[1:] if argv is None else argv,
        prog=PROG,
        description="Time a training step beside plain inference on models that grow, and on batches that grow.",
        groups=(GrowthWays, GrowthArguments),
        training=False,
    )
    with user_errors(PROG, interrupted="interrupted. What was measured is in growth.json if output_dir was given."):
        run(parsed.get(GrowthWays), parsed.get(GrowthArguments))


def run(training: GrowthWays, options: GrowthArguments) -> None:
    """Measure point after point, print the table, and write the files that were asked for.

    Raises:
        ConfigError: An option is unknown or out of range, or nothing fits into memory.
    """
    from zoft.bench.step.growth import plan
    from zoft.checks import check_count
    from zoft.environment import environment
    from zoft.reporting.figures import require_matplotlib
    from zoft.reporting.growth import markdown, plot

    check_count("rounds", options.rounds)
    workload, names = training.workload(), training.names()
    points = plan(workload, names, options.sizes, options.batch_sizes)
    folder = None
    if options.output_dir is not None:
        require_matplotlib()
        folder = make_output_dir(options.output_dir)
    points, refused = _those_that_fit(points, _limit(options.memory, workload))
    where = environment(workload.device)
    content: dict[str, Any] = {"workload": asdict(workload), "environment": where, "refused": refused, "results": []}
    done: dict[tuple[str, Workload], Figures] = {}
    for count, point in enumerate(points, 1):
        print(f"measuring {count}/{len(points)}: {_says(point)}", file=sys.stderr, flush=True)
        content["results"].append(_result(point, options.rounds, done))
        _write(folder, content)
    content["exponents"] = _exponents(content["results"])
    title = (
        f"models on {workload.batch_size} x {workload.length} tokens, batches on {workload.model}; {workload.dtype}, "
        f"loss {workload.loss}, {where['device']}"
    )
    print(f"{title}; {where['processor']}, {where['threads']} threads, torch {where['torch']}\n")
    print(markdown(content["results"], content["exponents"]), flush=True)
    if folder is not None:
        _write(folder, content)
        with writing(f"output_dir {options.output_dir!r}"):
            plot(content["results"], content["exponents"], title, folder / "growth.png")
        print(f"wrote growth.json, growth.png to {folder}", file=sys.stderr)


def _limit(memory: str | None, workload: Workload) -> int | None:
    import torch

    from zoft.bench.memory.available import available_bytes
    from zoft.bench.memory.fitting import size_in_bytes

    return available_bytes(torch.device(workload.device)) if memory is None else size_in_bytes(memory)


def _those_that_fit(points: list[Point], limit: int | None) -> tuple[list[Point], list[dict[str, Any]]]:
    """Return the points to measure, and what is refused; the latter is said before minutes are spent on the others."""
    from zoft.bench.step.growth import too_large

    fitting, refused = [], []
    for count, point in enumerate(points, 1):
        print(f"predicting memory {count}/{len(points)}: {_says(point)}", file=sys.stderr, flush=True)
        reason = None if limit is None else too_large(point, limit)
        if reason is None:
            fitting.append(point)
            continue
        print(f"{PROG}: without {_says(point)}: {reason}", file=sys.stderr, flush=True)
        refused.append({**asdict(point), "reason": reason})
    if not fitting:
        raise ConfigError("nothing of this fits into memory; give smaller --sizes and --batch_sizes, or more --memory")
    return fitting, refused


def _result(point: Point, rounds: int, done: dict[tuple[str, Workload], Figures]) -> dict[str, Any]:
    from zoft.bench.step.growth import ratio
    from zoft.bench.step.measure import measure

    same = point.name, point.workload  # a model and a batch may lie on both ways
    figures = done[same] if same in done else measure(point.workload, point.name, rounds)
    done[same] = figures
    tokens = point.workload.tokens
    return {"along": point.along, "workload": asdict(point.workload), "tokens": tokens, **asdict(figures)} | {
        "ratio": ratio(figures)
    }


def _exponents(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fit a power of what grows to the time of a step, and of a forward beside it, for each contender."""
    from zoft.bench.step.growth import exponent

    fitted = []
    for along, name in dict.fromkeys((one["along"], one["name"]) for one in results):
        those = [one for one in results if (one["along"], one["name"]) == (along, name)]
        sizes = [one[along] for one in those]
        of = {kind: exponent(sizes, [one[f"{kind}_seconds"] for one in those]) for kind in ("step", "forward")}
        fitted.append({"along": along, "name": name, **of})
    return fitted


def _says(point: Point) -> str:
    workload = point.workload
    return f"{point.name}, {workload.model}, {workload.batch_size} x {workload.length} tokens"


def _write(folder: Path | None, content: dict[str, Any]) -> None:
    if folder is not None:
        with writing(f"output_dir {str(folder)!r}"):
            (folder / "growth.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
