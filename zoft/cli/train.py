"""``zoft-train --config recipe.yaml [--flag value ...]``: fine-tune a language model by forward passes."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoft.cli.arguments import (
    AdapterArguments,
    DataArguments,
    ModelArguments,
    PrivacyArguments,
    RunArguments,
    ZOArguments,
)
from zoft.cli.config import ParsedArguments, dump_resolved, parse_cli, user_errors
from zoft.cli.keep import keep
from zoft.errors import ConfigError
from zoft.locked_file import check_free
from zoft.log_file import LOG_NAME

if TYPE_CHECKING:
    from zoft.hf.prompted import PromptedTrainer
    from zoft.privacy import PrivacyConfig
    from zoft.tasks.encoding import EncodedPrompts, PromptEncoder
    from zoft.tasks.prompted import PromptedTask
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

    from zoft.evaluation.classification import evaluate_prompted
    from zoft.hf.prompted import OnceLogged
    from zoft.method import build_method
    from zoft.tasks.prompted import option_scores

    args, options = parsed.get(TrainingArguments), parsed.get(RunArguments)
    set_seed(args.seed)
    config = zo_config(parsed)
    build_method(config)  # refuses what cannot be
    privacy = privacy_config(parsed)
    evaluates = privacy is None or privacy.dp_eval_is_public
    task = prompted_task(parsed.get(DataArguments))
    model, tokenizer = load(parsed, task)
    data = load_data(parsed, task, tokenizer)
    output_dir = Path(str(args.output_dir))
    if args.process_index == 0:
        _claim(output_dir)
    if parsed.get(AdapterArguments).use_peft:
        start_adapter(model, output_dir, resume=options.resume, keep=args.process_index == 0)

    trainer = make_trainer(parsed, config, privacy, model, tokenizer, data)
    if args.process_index == 0:
        # The settings belong to the log: those of a run that is refused must not replace an earlier run's.
        settings = output_dir / "resolved_config.yaml"
        trainer.add_callback(OnceLogged(lambda: dump_resolved(settings, parsed, resolved_settings(config))))

    def evaluate(rows: EncodedPrompts) -> dict[str, Any]:
        return dict(
            evaluate_prompted(
                model,
                rows,
                data.encoder.collator(),
                option_scores,
                batch_size=args.per_device_eval_batch_size,
                device=args.device,
            )
        )

    scores: dict[str, dict[str, Any]] = {}
    if evaluates:
        scores["before"] = before = evaluate(data.evaluation)
        _say(f"before: accuracy {before['accuracy']:.3f}, loss {before['loss']:.3f} on {before['n']} held-out rows")
    else:
        _say("the held-out rows are taken for private: nothing is measured on them (see --dp_eval_is_public)")
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=True if options.resume else None)
    seconds = time.perf_counter() - started
    if evaluates:
        scores["after"] = evaluate(data.evaluation)
        if data.true_evaluation is not None:
            scores["after_on_true_labels"] = evaluate(data.true_evaluation)
    metrics = {**scores, **summary(trainer)}
    if privacy is None:
        metrics["train_seconds"] = round(seconds, 1)
    if args.process_index == 0:
        (output_dir / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    keep(trainer, parsed, metrics)
    took = f" in {seconds:.0f} s" if privacy is None else ""  # of a private run, it tells how many examples it saw
    _say(f"trained {metrics['steps']} steps ({metrics['forwards']} forwards){took}")
    spending = trainer.zo_spending
    if spending is not None:
        _say(f"privacy: {spending}")
    for name, score in scores.items():
        name = name.replace("_", " ")
        _say(f"{name:>7}: held-out accuracy {score['accuracy']:.3f}   held-out loss {score['loss']:.3f}")
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


@dataclass(frozen=True)
class Data:
    """Encoded rows and what encodes them.

    In a control run ``train`` and ``evaluation`` have shuffled labels, and ``true_evaluation`` the real ones.
    """

    encoder: PromptEncoder
    train: EncodedPrompts
    evaluation: EncodedPrompts
    true_evaluation: EncodedPrompts | None = None


def prompted_task(data: DataArguments) -> PromptedTask:
    """Build the task of a recipe.

    Raises:
        ConfigError: If the template or the label words are missing.
    """
    from zoft.tasks.prompted import PromptedTask

    if data.template is None or not data.label_words:
        raise ConfigError(
            'a recipe needs a template and label_words, for example --template "{text}\\nOverall, the movie was" '
            "--label_words terrible great"
        )
    return PromptedTask(data.template, tuple(data.label_words), data.labels, data.label_column)  # type: ignore[arg-type]


def load(parsed: ParsedArguments, task: PromptedTask) -> tuple[Any, Any]:
    """Load model and tokenizer on the training device."""
    from transformers import TrainingArguments

    from zoft.cli.models import load_model_and_tokenizer

    args = parsed.get(TrainingArguments)
    model, tokenizer = load_model_and_tokenizer(
        parsed.get(ModelArguments),
        "masked" if task.is_masked else "causal",
        adapter=parsed.get(AdapterArguments),
        seed=args.seed,
    )
    # A quantised model is quantised where it is to stay, and a device map says where that is.
    settled = parsed.get(ModelArguments).is_quantised or parsed.get(ModelArguments).device_map is not None
    return model if settled else model.to(args.device), tokenizer


def start_adapter(model: Any, output_dir: Path, *, resume: bool, keep: bool) -> None:
    """Keep where the adapter starts from for replays; a resumed run starts where it started the first time."""
    from zoft.cli.adapters import keep_start, recall_start, start_of
    from zoft.log_file import LOG_NAME

    log = output_dir / LOG_NAME
    if resume and start_of(log).is_dir():
        recall_start(model, log)
    elif keep:
        keep_start(model, log)


def load_data(parsed: ParsedArguments, task: PromptedTask, tokenizer: Any) -> Data:
    """Load, split and encode the recipe's rows, and say how many there are."""
    from transformers import TrainingArguments

    from zoft.tasks.data import load_splits, permute_labels
    from zoft.tasks.encoding import PromptEncoder

    args, data, privacy = parsed.get(TrainingArguments), parsed.get(DataArguments), parsed.get(PrivacyArguments)
    if privacy.is_private and data.shuffle_labels:
        raise ConfigError(
            "shuffle_labels gives rows each other's labels, so that one row more would change others; a private run "
            "protects single rows. Leave one of them out"
        )
    seed = args.seed if args.data_seed is None else args.data_seed
    true = load_splits(
        task.columns,
        dataset=data.dataset,
        dataset_config_name=data.dataset_config_name,
        train_file=data.train_file,
        eval_file=data.eval_file,
        eval_fraction=data.eval_fraction,
        seed=seed,
        max_train_samples=data.max_train_samples,
        max_eval_samples=data.max_eval_samples,
        # Not among private rows that nothing is measured on: one of them would decide about many training rows.
        drop_shared_texts=not privacy.is_private or privacy.dp_eval_is_public,
    )
    splits = permute_labels(true, task.label_column, seed) if data.shuffle_labels else true
    encoder = PromptEncoder(task, tokenizer, data.max_length, reserved=parsed.get(AdapterArguments).virtual_tokens)
    train, evaluation = encoder.encode(splits.train), encoder.encode(splits.evaluation)
    cut = f"; {train.truncated_share:.1%} of the training rows are cut to {data.max_length} tokens"
    _say(
        f"{len(train)} training rows, {len(evaluation)} held-out rows"
        + ("" if privacy.is_private else cut)
        + (" - ALL LABELS ARE SHUFFLED (control run)" if data.shuffle_labels else "")
    )
    return Data(encoder, train, evaluation, encoder.encode(true.evaluation) if data.shuffle_labels else None)


def make_trainer(
    parsed: ParsedArguments, config: ZOConfig, privacy: PrivacyConfig | None, model: Any, tokenizer: Any, data: Data
) -> PromptedTrainer:
    """Build the Trainer of a recipe."""
    from transformers import TrainingArguments

    from zoft.hf.prompted import PromptedTrainer, accuracy

    args, options = parsed.get(TrainingArguments), parsed.get(RunArguments)
    args.remove_unused_columns = False  # the collator's tensors are the task's, not the forward's
    args.dataloader_pin_memory = args.dataloader_pin_memory and args.device.type == "cuda"
    return PromptedTrainer(
        model=model,
        args=args,
        zo=config,
        privacy=privacy,
        zo_checkpoints=options.zo_checkpoints,
        zo_snapshot_steps=options.zo_snapshot_steps,
        train_dataset=data.train,
        eval_dataset=data.evaluation,
        data_collator=data.encoder.collator(),
        processing_class=tokenizer,
        compute_metrics=accuracy,
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


def summary(trainer: PromptedTrainer) -> dict[str, Any]:
    """Return a finished run's figures."""
    from zoft.hf.meters import peak_memory_bytes

    engine, spending = trainer.zo_engine, trainer.zo_spending
    return {
        "steps": engine.step,
        "forwards": trainer.zo_forwards,
        **trainer.zo_step_size.figures,
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
