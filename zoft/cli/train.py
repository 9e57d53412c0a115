"""``zoft-train --config recipe.yaml [--flag value ...]``: fine-tune a language model by forward passes."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoft.cli.arguments import (
    AdapterArguments,
    DataArguments,
    PrivacyArguments,
    RunArguments,
    ZOArguments,
)
from zoft.cli.config import ParsedArguments, dump_resolved, parse_cli, user_errors
from zoft.errors import ConfigError
from zoft.locked_file import check_free
from zoft.log_file import LOG_NAME

if TYPE_CHECKING:
    from zoft.evaluation.predictions import Evaluation
    from zoft.hf.tasks import TaskTrainer
    from zoft.privacy import PrivacyConfig
    from zoft.problems.problem import Problem
    from zoft.types import ZOConfig

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
            _leave_together()
        except KeyboardInterrupt:
            print(f"\n{PROG}: interrupted. Every finished step is in the log: --resume goes on from there.")
            raise SystemExit(130) from None


def run(parsed: ParsedArguments) -> dict[str, Any]:
    """Evaluate, train, evaluate again, save. Returns what ``metrics.json`` holds."""
    from transformers import TrainingArguments, set_seed

    from zoft.cli.families import family_of
    from zoft.hf.tasks import OnceLogged
    from zoft.method import build_method

    args, options = parsed.get(TrainingArguments), parsed.get(RunArguments)
    set_seed(args.seed)
    config = zo_config(parsed)
    build_method(config)  # refuses what cannot be
    privacy = privacy_config(parsed)
    evaluates = privacy is None or privacy.dp_eval_is_public
    family = family_of(parsed.get(DataArguments))
    model, processor = family.load(parsed)
    problem = family.build(parsed, model, processor)
    _say_what_is_trained_on(problem, parsed)
    output_dir = Path(str(args.output_dir))
    if args.process_index == 0:
        _claim(output_dir)
    if parsed.get(AdapterArguments).use_peft:
        start_adapter(model, output_dir, resume=options.resume, keep=args.process_index == 0)

    trainer = make_trainer(parsed, config, privacy, model, processor, problem)
    if args.process_index == 0:
        # The settings belong to the log: those of a run that is refused must not replace an earlier run's.
        settings = output_dir / "resolved_config.yaml"
        trainer.add_callback(OnceLogged(lambda: dump_resolved(settings, parsed, resolved_settings(config))))

    def evaluate(rows: Any) -> Evaluation:
        return problem.evaluate(model, rows, batch_size=args.per_device_eval_batch_size, device=args.device)

    results: dict[str, Evaluation] = {}
    if evaluates:
        results["before"] = evaluate(problem.evaluation)
        scores = results["before"].scores
        _say(f"before: {_told(problem, scores)} on {scores['n']} held-out rows")
    else:
        _say("the held-out rows are taken for private: nothing is measured on them (see --dp_eval_is_public)")
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=True if options.resume else None)
    seconds = time.perf_counter() - started
    if evaluates:
        results["after"] = evaluate(problem.evaluation)
        if problem.true_evaluation is not None:
            results["after_on_true_labels"] = evaluate(problem.true_evaluation)
    scores = {name: result.scores for name, result in results.items()}
    metrics = {**scores, **summary(trainer)}
    if privacy is None:
        metrics["train_seconds"] = round(seconds, 1)
    if args.process_index == 0:
        _write_json(output_dir / "metrics.json", metrics)
        if evaluates:
            _write_json(output_dir / "examples.json", examples(problem, results["before"], results["after"]))
    if options.save_model:
        trainer.save_model(str(output_dir))
    took = f" in {seconds:.0f} s" if privacy is None else ""  # of a private run, it tells how many examples it saw
    _say(f"trained {metrics['steps']} steps ({metrics['forwards']} forwards){took}")
    spending = trainer.zo_spending
    if spending is not None:
        _say(f"privacy: {spending}")
    for name, result in results.items():
        _say(f"{name.replace('_', ' '):>7}: held-out {_told(problem, result.scores, ',   held-out ')}")
    _say(f"wrote {output_dir}: {'model, ' if options.save_model else ''}zo_log, resolved_config.yaml, metrics.json")
    return metrics


def _claim(output_dir: Path) -> None:
    """Make the folder, and refuse one that cannot be written or is being written, before minutes have been spent."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        check_free(output_dir / LOG_NAME)
        if not os.access(output_dir, os.W_OK):
            raise PermissionError(errno.EACCES, "it is read-only for this user")
    except OSError as error:
        raise ConfigError(f"output_dir {str(output_dir)!r} cannot be written: {error.strerror}") from None


def start_adapter(model: Any, output_dir: Path, *, resume: bool, keep: bool) -> None:
    """Keep where the adapter starts from for replays; a resumed run starts where it started the first time."""
    from zoft.cli.adapters import keep_start, recall_start, start_of
    from zoft.log_file import LOG_NAME

    log = output_dir / LOG_NAME
    if resume and start_of(log).is_dir():
        recall_start(model, log)
    elif keep:
        keep_start(model, log)


def _say_what_is_trained_on(problem: Problem, parsed: ParsedArguments) -> None:
    parts = [f"{len(problem.train)} training rows"]
    if problem.dev is not None:
        parts.append(f"{len(problem.dev)} to choose the checkpoint by")
    parts.append(f"{len(problem.evaluation)} held-out rows")
    # Of private rows not even lengths are told.
    notes = () if parsed.get(PrivacyArguments).is_private else problem.notes
    shuffled = " - ALL LABELS ARE SHUFFLED (control run)" if parsed.get(DataArguments).shuffle_labels else ""
    _say("; ".join([", ".join(parts), *notes]) + shuffled)


def _told(problem: Problem, scores: dict[str, Any], between: str = ", ") -> str:
    """Return the figures that results are told by."""
    names = dict.fromkeys((problem.metric, "loss"))
    return between.join(f"{name.replace('_', ' ')} {scores[name]:.3f}" for name in names)


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


def make_trainer(
    parsed: ParsedArguments,
    config: ZOConfig,
    privacy: PrivacyConfig | None,
    model: Any,
    processor: Any,
    problem: Problem,
) -> TaskTrainer:
    """Build the Trainer of a recipe."""
    from transformers import TrainingArguments

    from zoft.hf.tasks import TaskTrainer

    args, options = parsed.get(TrainingArguments), parsed.get(RunArguments)
    args.remove_unused_columns = False  # the collator's tensors are the task's, not the forward's
    args.dataloader_pin_memory = args.dataloader_pin_memory and args.device.type == "cuda"
    return TaskTrainer(
        model=model,
        args=args,
        zo=config,
        privacy=privacy,
        zo_checkpoints=options.zo_checkpoints,
        zo_snapshot_steps=options.zo_snapshot_steps,
        losses=problem.losses,
        evaluate=problem.evaluate,
        train_dataset=problem.train,
        eval_dataset=problem.evaluation if problem.dev is None else problem.dev,
        data_collator=problem.collator,
        processing_class=processor,
    )


def zo_config(parsed: ParsedArguments) -> ZOConfig:
    """Build the zeroth-order configuration of a recipe."""
    from transformers import TrainingArguments

    from zoft.types import ZOConfig

    zo = parsed.get(ZOArguments)
    return ZOConfig(
        method=zo.zo_method,
        zo_lr=zo.zo_lr,
        zo_eps=zo.zo_eps,
        num_queries=zo.zo_num_queries,
        seed=parsed.get(TrainingArguments).seed if zo.zo_seed is None else zo.zo_seed,
        distribution=zo.zo_distribution,
        shared_vector=zo.zo_shared_vector,
        placement=zo.zo_placement,
        include=tuple(zo.zo_include),
        exclude=tuple(zo.zo_exclude),
        nonfinite=zo.zo_nonfinite,
        scratch_mib=zo.zo_scratch_mib,
        query_parallel_size=zo.zo_query_parallel_size,
        replica_check_steps=zo.zo_replica_check_steps,
        force=zo.zo_force,
        method_kwargs=zo.method_kwargs,
    )


def privacy_config(parsed: ParsedArguments) -> PrivacyConfig | None:
    """Build a recipe's promise of privacy, None without."""
    from zoft.privacy import PrivacyConfig

    asked = parsed.get(PrivacyArguments)
    return PrivacyConfig(**vars(asked)) if asked.is_private else None


def resolved_settings(config: ZOConfig) -> dict[str, Any]:
    """Return what the settings that a recipe may leave to the method, or to ``seed``, have become.

    A zo_eps that is measured stays open.
    """
    from zoft.method import build_method

    asked, config = config, build_method(config).config
    return {
        "zo_eps": config.zo_eps if asked.zo_lr is None else asked.zo_eps,
        "zo_num_queries": config.num_queries,
        "zo_seed": config.seed,
        "zo_distribution": config.distribution,
    }


def summary(trainer: TaskTrainer) -> dict[str, Any]:
    """Return a finished run's figures."""
    from zoft.hf.meters import peak_memory_bytes

    engine, step_size, spending = trainer.zo_engine, trainer.zo_step_size, trainer.zo_spending
    forwards = engine.step * engine.method.estimator.forwards + step_size.forwards
    return {
        "steps": engine.step,
        "forwards": forwards * trainer.args.gradient_accumulation_steps,
        **step_size.figures,
        "processes": trainer.args.world_size,
        "method": engine.config.method,
        "placement": engine.placement,
        "trained_parameters": sum(t.parameter.numel() for t in engine.trainables),
        **({"peak_memory_gib": round(peak_memory_bytes() / 2**30, 3)} if spending is None else spending.figures),
    }


def _leave_together() -> None:
    """Wait for the other processes and close the connection: one that just goes may abort, which fails the run."""
    from accelerate import PartialState

    processes = PartialState()
    if processes.num_processes > 1:
        processes.wait_for_everyone()
        processes.destroy_process_group()


def _say(text: str) -> None:
    from accelerate import PartialState

    if PartialState().is_main_process:
        print(text, flush=True)


if __name__ == "__main__":
    main()
