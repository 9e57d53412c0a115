"""``zoft-bench nzk``: the experiments on the neural zeroth-order kernel (arXiv 2603.21169), with figures."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from zoft.cli.config import parse_cli, user_errors
from zoft.cli.output_files import make_output_dir
from zoft.errors import AssetError, ConfigError, did_you_mean

if TYPE_CHECKING:
    from zoft.tasks.images import BinaryImages

PROG = "zoft-bench nzk"
INSTALLED, ALL = "installed", "all"


@dataclass
class NzkArguments:
    """What to run, and where the results go."""

    _argument_group_name = "nzk"

    dataset: str = field(
        default=INSTALLED,
        metadata={
            "help": "synthetic, mnist, fashion_mnist, cifar10 or tiny_imagenet; 'installed': synthetic, and of the "
            "packaged ones those that are in place; 'all'."
        },
    )
    model: str = field(
        default="linear",
        metadata={"help": "linear, mlp (one hidden layer of 32; some ten minutes a data set), or all."},
    )
    iterations: int = field(default=16_000, metadata={"help": "Steps of training."})
    num_examples: int = field(default=128, metadata={"help": "Examples, half of each class; all are one batch."})
    classes: list[int] = field(default_factory=lambda: [0, 1], metadata={"help": "The two labels of a data set."})
    rules: list[str] = field(
        default_factory=lambda: ["mezo", "nzk_independent", "nzk_shared"],
        metadata={"help": "Ways to train: these, and per_example, which takes minutes more."},
    )
    num_runs: int = field(default=1, metadata={"help": "Seeds over which training curves are averaged."})
    num_draws: int = field(default=16_384, metadata={"help": "Draws for the comparison of kernels."})
    data_dir: str | None = field(
        default=None,
        metadata={"help": "A folder with a folder of each data set's name, with its IDX or Parquet files."},
    )
    seed: int = field(default=0, metadata={"help": "Decides examples, initial weights and directions."})
    output_dir: str = field(default="nzk", metadata={"help": "Folder for results.json and the figures."})


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``zoft-bench nzk``."""
    parsed = parse_cli(
        sys.argv[1:] if argv is None else argv,
        prog=PROG,
        description="Measure the neural zeroth-order kernel, train by it, and compare both with closed forms.",
        groups=(NzkArguments,),
        training=False,
    )
    with user_errors(PROG, interrupted="interrupted. Finished experiments are in results.json."):
        run(parsed.get(NzkArguments))


def run(options: NzkArguments) -> None:
    """Run the experiments, write ``results.json`` and figures, and print a table.

    Raises:
        ConfigError: An option is unknown or out of range, or matplotlib is not installed.
        AssetError: A packaged data set that was named is missing or altered.
        DataError: A data set cannot be loaded.
    """
    from zoft.bench.nzk.experiment import MODELS, Experiment
    from zoft.bench.nzk.results import Settings
    from zoft.environment import environment
    from zoft.reporting.figures import require_matplotlib
    from zoft.reporting.nzk import draw, table

    require_matplotlib()  # before the minutes that it would be needed after
    settings = Settings(
        options.iterations, options.num_runs, options.num_draws, tuple(dict.fromkeys(options.rules)), options.seed
    )
    if options.model not in (*MODELS, ALL):
        known = (*MODELS, ALL)
        raise ConfigError(
            f"model must be one of {', '.join(known)}, got {options.model!r}.{did_you_mean(options.model, known)}"
        )
    folder = make_output_dir(options.output_dir)
    content: dict[str, Any] = {"options": asdict(options), "environment": environment("cpu"), "results": []}
    for dataset, data in _load(options).items():
        for model in MODELS if options.model == ALL else (options.model,):
            print(f"{dataset}, {model}", file=sys.stderr, flush=True)
            content["results"].append(asdict(Experiment(dataset, data, model, settings).run()))
            (folder / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(table(content["results"]), flush=True)
    files = ["results.json", *(path.name for path in draw(content["results"], folder))]
    print(f"wrote {', '.join(files)} to {folder}", flush=True)


def _load(options: NzkArguments) -> dict[str, BinaryImages]:
    """Load before anything runs, so that what is missing is said at once."""
    from zoft.tasks.images import IMAGE_DATASETS, INSTALLABLE, load_binary_images

    names = {INSTALLED: INSTALLABLE, ALL: IMAGE_DATASETS}.get(options.dataset, (options.dataset,))
    loaded = {}
    for name in names:
        try:
            loaded[name] = load_binary_images(
                name,
                num_examples=options.num_examples,
                classes=options.classes,
                seed=options.seed,
                data_dir=options.data_dir,
            )
        except AssetError as error:
            if options.dataset != INSTALLED:
                raise
            print(f"{PROG}: without {name}: {error}", file=sys.stderr, flush=True)
    return loaded


if __name__ == "__main__":
    main()
