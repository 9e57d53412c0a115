"""``zoft-privacy table``: the noise multipliers that budgets ask for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

from zoft.cli.config import parse_cli, user_errors
from zoft.errors import ConfigError

PROG = "zoft-privacy table"


@dataclass
class TableArguments:
    """What to tabulate; each list is an axis."""

    _argument_group_name = "table"

    num_examples: int | None = field(default=None, metadata={"help": "Number of training rows."})
    steps: list[int] = field(default_factory=lambda: [1000, 10000], metadata={"help": "Numbers of steps."})
    expected_batch_size: list[int] = field(
        default_factory=lambda: [16, 64], metadata={"help": "Rows a step, on average, over all processes."}
    )
    dp_target_epsilon: list[float] = field(
        default_factory=lambda: [1.0, 2.0, 4.0, 8.0], metadata={"help": "Budgets. PRV takes long for large ones."}
    )
    dp_target_delta: float | None = field(
        default=None, metadata={"help": "Probability with which the promise may fail: well below 1 / number of rows."}
    )
    dp_mechanism: Literal["gaussian", "laplace"] = field(
        default="gaussian", metadata={"help": "Distribution of the noise; laplace: pure epsilon, no delta."}
    )
    dp_accountant: Literal["prv", "rdp"] = field(default="prv", metadata={"help": "Opacus's accountant."})
    json: str | None = field(default=None, metadata={"help": "Also write the table into this file."})


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``zoft-privacy table``."""
    parsed = parse_cli(
        sys.argv[1:] if argv is None else argv,
        prog=PROG,
        description="Tabulate the noise that budgets ask for: steps x batch sizes x epsilons.",
        groups=(TableArguments,),
        training=False,
    )
    with user_errors(PROG):
        from zoft.cli.report import write
        from zoft.reporting.privacy_table import table_section

        options = parsed.get(TableArguments)
        write([table_section(entries(options))], json_file=options.json)


def entries(options: TableArguments) -> list[Any]:
    """Plan a run for each entry of the table, with a bar: PRV takes about a second for each.

    Raises:
        ConfigError: If a number is missing or out of range.
    """
    if options.num_examples is None:
        raise ConfigError("num_examples is missing: the number of training rows")
    from tqdm import tqdm

    from zoft.privacy import PrivacyConfig, PrivacyPlan

    axes = list(product(options.steps, options.expected_batch_size, options.dp_target_epsilon))
    return [
        PrivacyPlan.of(
            PrivacyConfig(
                dp_target_epsilon=target,
                dp_target_delta=options.dp_target_delta,
                dp_mechanism=options.dp_mechanism,
                dp_accountant=options.dp_accountant,
            ),
            num_examples=options.num_examples,
            expected_batch_size=batch,
            steps=steps,
        )
        for steps, batch, target in tqdm(axes, desc="noise multipliers", disable=None, leave=False)
    ]
