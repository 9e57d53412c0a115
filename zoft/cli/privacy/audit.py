"""``zoft-privacy audit``: run the mechanism with and without a chosen example, and bound what that tells."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import TYPE_CHECKING

from zoft.cli.arguments import PrivacyArguments
from zoft.cli.config import ParsedArguments, parse_cli, user_errors
from zoft.errors import ConfigError

if TYPE_CHECKING:
    from zoft.privacy import PrivacyPlan
    from zoft.privacy.audit import AuditResult

PROG = "zoft-privacy audit"
PLAN_FLAGS = (
    *(f.name for f in fields(PrivacyArguments)),
    *("steps", "num_examples", "expected_batch_size", "sample_rate", "zo_num_queries"),
)
SEED_DRAWS = 1_000  # noise that a seed repeats is exposed by the first


@dataclass
class AuditArguments:
    """Which run is audited, and how thoroughly."""

    _argument_group_name = "audit"

    log: str | None = field(
        default=None, metadata={"help": "Audit the plan of the run that keeps this log, in place of the flags' plan."}
    )
    steps: int | None = field(default=None, metadata={"help": "Steps of the run."})
    num_examples: int | None = field(default=None, metadata={"help": "Number of training examples."})
    expected_batch_size: int | None = field(default=None, metadata={"help": "Expected number of examples a step."})
    sample_rate: str | None = field(
        default=None, metadata={"help": "In place of these two: probability of an example to be in a batch."}
    )
    zo_num_queries: int = field(
        default=1, metadata={"help": "Random directions a step: numbers that a step publishes."}
    )
    draws: int = field(default=100_000, metadata={"help": "Single releases with the canary, and as many without it."})
    runs: int = field(default=1_000, metadata={"help": "Whole runs with the canary, and as many without it."})
    confidence: float = field(
        default=0.95, metadata={"help": "That what keeps its promise passes all audits together."}
    )
    together: int = field(
        default=64, metadata={"help": "How many repetitions are noised in one call; 1 as in training, and slower."}
    )
    json: bool = field(default=False, metadata={"help": "Print the results as JSON."})

    def __post_init__(self) -> None:
        if not 0.0 < self.confidence < 1.0:
            raise ConfigError(f"confidence must be in (0, 1), got {self.confidence}.")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``zoft-privacy audit``. The exit code is 1 if an audit finds a violation."""
    parsed = parse_cli(
        sys.argv[1:] if argv is None else argv,
        prog=PROG,
        description="Run the mechanism with and without a chosen example, and bound what that tells about it.",
        groups=(PrivacyArguments, AuditArguments),
        training=False,
    )
    with user_errors(PROG):
        plan = _plan(parsed)
        options = parsed.get(AuditArguments)
        if not options.json:
            print(plan, flush=True)
        results = []
        for result in _audits(plan, options):
            results.append(result)
            if not options.json:
                print(result, flush=True)
    is_violation = any(result.is_violation for result in results)
    if options.json:
        content = {"plan": plan.to_dict(), "audits": [r.to_dict() for r in results], "is_violation": is_violation}
        print(json.dumps(content, indent=1))
    else:
        verdict = "VIOLATION: more was learned than is promised" if is_violation else "consistent with the promise"
        print(f"{verdict} (all audits together: confidence {options.confidence:g})")
    if is_violation:
        raise SystemExit(1)


def _audits(plan: PrivacyPlan, options: AuditArguments) -> Iterator[AuditResult]:
    from zoft.privacy.audit import CANARIES, audit_release, audit_run

    each = 1.0 - (1.0 - options.confidence) / (len(CANARIES) + 2)  # they are that many
    draws, together = options.draws, options.together
    for canary in CANARIES:
        yield audit_release(plan, draws=draws, canary=canary, confidence=each, together=together)
    yield audit_release(plan, draws=min(draws, SEED_DRAWS), confidence=each, seeds_are_known=True, together=together)
    yield audit_run(plan, runs=options.runs, confidence=each, together=together)


def _plan(parsed: ParsedArguments) -> PrivacyPlan:
    from zoft.privacy import PrivacyConfig, PrivacyPlan

    options, asked = parsed.get(AuditArguments), parsed.get(PrivacyArguments)
    if options.log is not None:
        given = [name for name in PLAN_FLAGS if parsed.values[name] != parsed.defaults[name]]
        if given:
            raise ConfigError(f"--log says what the plan is; leave out --{given[0]}.")
        return _plan_of(options.log)
    if not asked.is_private:
        raise ConfigError(
            "there is no promise to audit: give --dp_noise_multiplier or --dp_target_epsilon, or a private run's --log."
        )
    if options.steps is None:
        raise ConfigError("--steps is missing: the number of steps of the run.")
    num_examples, expected_batch_size = _sizes(options)
    return PrivacyPlan.of(
        PrivacyConfig(**vars(asked)),
        num_examples=num_examples,
        expected_batch_size=expected_batch_size,
        steps=options.steps,
        num_scalars=options.zo_num_queries,
    )


def _sizes(options: AuditArguments) -> tuple[int, int]:
    """Return a number of examples, and the expected batch size."""
    if options.sample_rate is None:
        if options.num_examples is None or options.expected_batch_size is None:
            raise ConfigError("give --num_examples and --expected_batch_size, or --sample_rate.")
        return options.num_examples, options.expected_batch_size
    if options.num_examples is not None or options.expected_batch_size is not None:
        raise ConfigError("--sample_rate is expected_batch_size / num_examples; give it, or these two.")
    try:
        rate = Fraction(options.sample_rate)
    except ValueError:
        raise ConfigError(f"sample_rate must be a number in (0, 1], got {options.sample_rate!r}.") from None
    if not 0 < rate <= 1:
        raise ConfigError(f"sample_rate must be a number in (0, 1], got {options.sample_rate!r}.")
    return rate.denominator, rate.numerator


def _plan_of(log: str) -> PrivacyPlan:
    from zoft.privacy import PrivacyPlan
    from zoft.replay_log import ReplayLog

    header = ReplayLog.open(log).header
    if "privacy" not in header:
        raise ConfigError(f"the run that keeps {log} is not private.")
    return PrivacyPlan.from_dict(header["privacy"])


if __name__ == "__main__":
    main()
