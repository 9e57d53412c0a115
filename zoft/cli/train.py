"""``zoft-train --config recipe.yaml [--flag value ...]``: fine-tune a language model by forward passes."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

from zoft.cli.arguments.data import DataArguments
from zoft.cli.arguments.privacy import PrivacyArguments
from zoft.cli.arguments.run import RunArguments
from zoft.cli.config import ParsedArguments, dump_resolved, parse_cli, user_errors
from zoft.cli.keep import keep
from zoft.cli.output_files import writing
from zoft.cli.processes import leave_together
from zoft.errors import ZoftWarning
from zoft.locked_file import check_free
from zoft.log_file import LOG_NAME

if TYPE_CHECKING:
    from zoft.evaluation.predictions import Evaluation
    from zoft.problems.problem import Problem

PROG = "zoft-train"


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``zoft-train``."""
    parsed = parse_cli(
        sys.argv[1:] if argv is None else argv,
        prog=PROG,
        description="Fine-tune a language model with forward passes only.",
    )
    with user_errors(PROG):
        try:
            run(parsed)
            leave_together()
        except KeyboardInterrupt:
            print(
                f"\n{PROG}: interrupted. --resume goes on from the last step in the log, or from the last checkpoint."
            )
            raise SystemExit(130) from None


def run(parsed: ParsedArguments) -> dict[str, Any]:
    """Evaluate, train, evaluate again, save. Returns what ``metrics.json`` holds."""
    from transformers import TrainingArguments, set_seed

    from zoft.cli.approaches import approach_of
    from zoft.cli.families import family_of
    from zoft.evaluation.intervals import with_intervals
    from zoft.hf.tasks import OnceLogged
    from zoft.tasks.hygiene import plural

    args, options = parsed.get(TrainingArguments), parsed.get(RunArguments)
    set_seed(args.seed)
    args.remove_unused_columns = False  # the collator's tensors are the task's, not the forward's
    args.dataloader_pin_memory = args.dataloader_pin_memory and args.device.type == "cuda"
    approach = approach_of(parsed)
    family = family_of(parsed)
    rows = family.read(parsed)  # before minutes are spent on loading a model
    model, processor = family.load(parsed, rows)
    problem = family.build(parsed, rows, model, processor)
    _say_what_is_trained_on(problem, parsed)
    if args.load_best_model_at_end and problem.dev is None:
        warnings.warn(
            "the best checkpoint is chosen by the very rows that are measured at the end, which flatters the result; "
            "set max_dev_samples to choose it by rows of their own",
            ZoftWarning,
            stacklevel=2,
        )
    output_dir = Path(str(args.output_dir))
    if args.process_index == 0:
        _claim(output_dir)
    trainer = approach.trainer(parsed, model, processor, problem, output_dir)

    def write_down() -> None:
        dump_resolved(output_dir / "resolved_config.yaml", parsed, {**approach.resolved, **problem.settled})
        if problem.data is not None:
            _write_json(output_dir / "data.json", asdict(problem.data))

    if args.process_index == 0:
        # Both belong to the log: those of a run that is refused must not replace an earlier run's.
        trainer.add_callback(OnceLogged(write_down))

    def evaluate(rows: Any) -> Evaluation:
        return problem.evaluate(model, rows, batch_size=args.per_device_eval_batch_size, device=args.device)

    results: dict[str, Evaluation] = {}
    if approach.evaluates:
        results["before"] = evaluate(problem.evaluation)
        scores = results["before"].scores
        _say(f"before: {_told(problem, scores)} on {plural(scores['n'], 'held-out row')}")
    else:
        _say("the held-out rows are taken for private: nothing is measured on them (see --dp_eval_is_public)")
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=True if options.resume else None)
    seconds = time.perf_counter() - started
    if approach.evaluates:
        results["after"] = evaluate(problem.evaluation)
        if problem.true_evaluation is not None:
            results["after_on_true_labels"] = evaluate(problem.true_evaluation)
    results = {name: with_intervals(result, problem.metric) for name, result in results.items()}
    scores = {name: result.scores for name, result in results.items()}
    metrics = {**scores, **approach.summary(trainer)}
    best = trainer.state.best_global_step if args.load_best_model_at_end else None
    if best is not None:
        metrics["best_step"] = best
    if not approach.is_private:
        metrics["train_seconds"] = round(seconds, 1)
    if args.process_index == 0:
        _write_json(output_dir / "metrics.json", metrics)
        if approach.evaluates:
            _write_json(output_dir / "examples.json", examples(problem, results["before"], results["after"]))
    keep(trainer, parsed, metrics)
    took = "" if approach.is_private else f" in {seconds:.0f} s"  # of a private run, it tells how many examples it saw
    _say(f"trained {metrics['steps']} steps ({metrics['forwards']} forwards){took}")
    if best is not None:
        _say(f"the weights are those of step {best}, the best by {args.metric_for_best_model}")
    for remark in approach.remarks(trainer):
        _say(remark)
    for name, result in results.items():
        _say(f"{name.replace('_', ' '):>7}: held-out {_told(problem, result.scores, ',   held-out ')}")
    data = [] if problem.data is None else ["data.json"]
    written = [
        *(["model"] if options.save_model else []),
        *approach.writes,
        "resolved_config.yaml",
        *data,
        "metrics.json",
    ]
    _say(f"wrote {output_dir}: {', '.join(written)}")
    return metrics


def _claim(output_dir: Path) -> None:
    """Make the folder, and refuse one that cannot be written or is being written, before minutes have been spent."""
    with writing(f"output_dir {str(output_dir)!r}"):
        output_dir.mkdir(parents=True, exist_ok=True)
        check_free(output_dir / LOG_NAME)
        if not os.access(output_dir, os.W_OK):
            raise PermissionError(errno.EACCES, "it is read-only for this user")


def _say_what_is_trained_on(problem: Problem, parsed: ParsedArguments) -> None:
    """Say how many rows there are, what they are like, and what is wrong with them."""
    from accelerate import PartialState

    from zoft.tasks.hygiene import as_text, judge, plural

    parts = [plural(len(problem.train), "training row")]
    if problem.dev is not None:
        parts.append(f"{len(problem.dev)} to choose the checkpoint by")
    parts.append(plural(len(problem.evaluation), "held-out row"))
    is_private = parsed.get(PrivacyArguments).is_private
    private = "; private rows are not inspected" if is_private else ""
    shuffled = " - ALL LABELS ARE SHUFFLED (control run)" if parsed.get(DataArguments).shuffle_labels else ""
    _say(", ".join(parts) + private + shuffled)
    if not is_private:  # else not even lengths are told
        for note in problem.notes:
            _say(f"  {note}")
    if problem.data is not None:
        _say(indent(as_text(problem.data), "  "))
        strict = parsed.get(DataArguments).strict_data
        if strict or PartialState().is_main_process:  # an error ends all processes, a warning is given once
            judge(problem.data, strict=strict)


def _told(problem: Problem, scores: dict[str, Any], between: str = ", ") -> str:
    """Return the figures that results are told by, and the confidence interval of those that have one."""
    told = []
    for name in dict.fromkeys((problem.metric, "loss")):
        low, high = scores.get(f"{name}_ci", (None, None))
        sure = "" if low is None else f" (95% interval {low:.3f} to {high:.3f})"
        told.append(f"{name.replace('_', ' ')} {scores[name]:.3f}{sure}")
    return between.join(told)


def examples(problem: Problem, before: Evaluation, after: Evaluation, count: int = 12) -> list[dict[str, str]]:
    """Return a few held-out examples as a person reads them: the prompt, what is right, and what the model said."""
    return [
        {
            "prompt": problem.show(index),
            "expected": " / ".join(one.expected),
            "before": one.predicted,
            "after": other.predicted,
        }
        for index, (one, other) in enumerate(zip(before.predictions[:count], after.predictions[:count], strict=True))
    ]


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _say(text: str) -> None:
    from accelerate import PartialState

    if PartialState().is_main_process:
        print(text, flush=True)


if __name__ == "__main__":
    main()
