"""``zoft-privacy audit``: run the mechanism with and without a chosen example, and bound what that tells.

What is audited is what ``zoft-privacy plan`` plans by the same settings, or what a run's log says.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import TYPE_CHECKING

from zoft.cli.arguments.privacy import PrivacyArguments
from zoft.cli.config import TRAIN_GROUPS, ParsedArguments, parse_cli, user_errors
from zoft.cli.output_files import write_json
from zoft.cli.privacy.plan import PlanArguments, make_plan
from zoft.cli.report import open_runs
from zoft.errors import ConfigError

if TYPE_CHECKING:
    from zoft.privacy import PrivacyPlan
    from zoft.privacy.audit import AuditResult

PROG = "zoft-privacy audit"
_OTHERS = tuple(group for group in TRAIN_GROUPS if group is not PrivacyArguments)
_PLANNED = (*(f.name for f in (*fields(PrivacyArguments), *fields(PlanArguments)) if f.name != "json"), "sample_rate")
SEED_DRAWS = 1_000  # noise that a seed repeats is exposed by the first


@dataclass
class AuditArguments:
    """Which run is audited, and how thoroughly."""

    _argument_group_name = "audit"

    log: str | None = field(
        default=None, metadata={"help": "Audit the plan of the run that keeps this log, in place of the flags' plan."}
    )
    sample_rate: str | None = field(
        default=None,
        metadata={"help": "In place of num_examples and expected_batch_size: probability of a row to be in a batch."},
    )
    draws: int = field(default=100_000, metadata={"help": "Single releases with the canary, and as many without it."})
    runs: int = field(default=1_000, metadata={"help": "Whole runs with the canary, and as many without it."})
    confidence: float = field(
        default=0.95, metadata={"help": "That what keeps its promise passes all audits together."}
    )
    together: int = field(
        default=64, metadata={"help": "How many repetitions are noised in one call; 1 as in training, and slower."}
    )

    def __post_init__(self) -> None:
        if not 0.0 < self.confidence < 1.0:
            raise ConfigError(f"confidence must be in (0, 1), got {self.confidence}.")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``zoft-privacy audit``. The exit code is 1 if an audit finds a violation."""
    parsed = parse_cli(
        sys.argv[1:] if argv is None else argv,
        prog=PROG,
        description="Run the mechanism with and without a chosen example, and bound what that tells about it. Takes "
        "zoft-train's recipes and flags.",
        groups=(AuditArguments, PlanArguments, PrivacyArguments, *_OTHERS),
    )
    with user_errors(PROG):
        plan = _plan(parsed)
        options = parsed.get(AuditArguments)
        print(plan, flush=True)
        results = []
        for result in _audits(plan, options):
            results.append(result)
            print(result, flush=True)
        is_violation = any(result.is_violation for result in results)
        verdict = "VIOLATION: more was learned than is promised" if is_violation else "consistent with the promise"
        print(f"{verdict} (all audits together: confidence {options.confidence:g})")
        file = parsed.get(PlanArguments).json
        if file is not None:
            audits = [result.to_dict() for result in results]
            content = {"plan": plan.to_dict(), "audits": audits, "is_violation": is_violation}
            write_json(file, content)
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
    """Return the plan of a log, or of the settings."""
    options, sizes = parsed.get(AuditArguments), parsed.get(PlanArguments)
    if options.log is not None:
        unused = [name for name in _PLANNED if parsed.values[name] != parsed.defaults[name]]
        if unused:
            raise ConfigError(f"--log says what the plan is; leave out --{unused[0]}.")
        return _plan_of(options.log)
    if options.sample_rate is not None:
        if sizes.num_examples is not None or sizes.expected_batch_size is not None:
            raise ConfigError("--sample_rate is expected_batch_size / num_examples; give it, or these two.")
        sizes.expected_batch_size, sizes.num_examples = _rate(options.sample_rate).as_integer_ratio()
    return make_plan(parsed)


def _rate(text: str) -> Fraction:
    """Return a sampling rate exactly."""
    try:
        rate = Fraction(text)
    except ValueError:
        rate = Fraction(0)
    if not 0 < rate <= 1:
        raise ConfigError(f"sample_rate must be a number in (0, 1], got {text!r}.")
    return rate


def _plan_of(log: str) -> PrivacyPlan:
    from zoft.privacy import PrivacyPlan

    header = open_runs([log])[log].header
    if "privacy" not in header:
        raise ConfigError(f"the run that keeps {log} is not private.")
    return PrivacyPlan.from_dict(header["privacy"])


if __name__ == "__main__":
    main()
