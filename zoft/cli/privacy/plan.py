"""``zoft-privacy plan``: what a private run would cost, by its settings or by a training recipe.

It takes every setting of ``zoft-train``, and what that command would learn from data may be said in its place.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zoft.cli.arguments.data import DataArguments
from zoft.cli.arguments.privacy import PrivacyArguments
from zoft.cli.config import TRAIN_GROUPS, ParsedArguments, parse_cli, user_errors
from zoft.errors import ConfigError

if TYPE_CHECKING:
    from zoft.privacy import PrivacyPlan

PROG = "zoft-privacy plan"
TABLE = "--table"


@dataclass
class PlanArguments:
    """The public facts of a run, where they are not to be taken from the training settings."""

    _argument_group_name = "plan"

    num_examples: int | None = field(
        default=None, metadata={"help": "Number of training rows; default: max_train_samples."}
    )
    expected_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Rows a step, on average, over all processes; default: per_device_train_batch_size times "
            "gradient_accumulation_steps."
        },
    )
    steps: int | None = field(default=None, metadata={"help": "Steps; default: max_steps, or num_train_epochs."})
    num_scalars: int | None = field(
        default=None, metadata={"help": "Numbers that a step releases; default: those of zo_method."}
    )
    json: str | None = field(default=None, metadata={"help": "Also write the plan into this file."})


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``zoft-privacy plan``; with ``--table``, of ``zoft-privacy table``."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if TABLE in argv:
        from zoft.cli.privacy import table

        argv.remove(TABLE)
        table.main(argv)
        return
    parsed = parse_cli(
        argv,
        prog=PROG,
        description="Say what a private run would cost and what it rests on. Takes zoft-train's recipes and flags. "
        f"With {TABLE}: see zoft-privacy table.",
        groups=(PlanArguments, PrivacyArguments, *(group for group in TRAIN_GROUPS if group is not PrivacyArguments)),
    )
    with user_errors(PROG):
        from zoft.cli.report import write
        from zoft.reporting.privacy_plan import plan_section

        write([plan_section(make_plan(parsed))], json_file=parsed.get(PlanArguments).json)


def make_plan(parsed: ParsedArguments) -> PrivacyPlan:
    """Plan the run that ``zoft-train`` would make of these settings.

    Raises:
        ConfigError: If there is no budget or number of rows, or the method cannot be private.
    """
    from transformers import TrainingArguments

    from zoft.cli.approaches.zeroth_order import privacy_config, zo_config
    from zoft.method import build_method
    from zoft.privacy import PrivacyPlan
    from zoft.privacy.plan import steps_per_epoch
    from zoft.privacy.qualify import private_config

    args, asked = parsed.get(TrainingArguments), parsed.get(PlanArguments)
    config = privacy_config(parsed)
    if config is None:
        raise ConfigError("there is nothing to plan: give a budget (dp_target_epsilon) or noise (dp_noise_multiplier)")
    rows = parsed.get(DataArguments).max_train_samples if asked.num_examples is None else asked.num_examples
    if rows is None:
        raise ConfigError("num_examples is missing: the number of training rows, which max_train_samples may say too")
    batch = _given(asked.expected_batch_size, args.per_device_train_batch_size * args.gradient_accumulation_steps)
    epochs = math.ceil(args.num_train_epochs * steps_per_epoch(rows, max(1, batch)))  # in steps
    method = build_method(private_config(zo_config(parsed)))
    return PrivacyPlan.of(
        config,
        num_examples=rows,
        expected_batch_size=batch,
        steps=_given(asked.steps, args.max_steps if args.max_steps > 0 else epochs),
        num_scalars=_given(asked.num_scalars, method.estimator.num_scalars),
    )


def _given(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value
