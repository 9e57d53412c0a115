"""``zoft-eval --config recipe.yaml`` or ``--run runs/x``: measure a model, or one before and after its fine-tuning."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoft.cli.arguments.adapter import AdapterArguments
from zoft.cli.arguments.data import DataArguments
from zoft.cli.arguments.model import ModelArguments
from zoft.cli.arguments.privacy import PrivacyArguments
from zoft.cli.config import TRAIN_GROUPS, ParsedArguments, parse_cli, user_errors
from zoft.cli.output_files import check_writable, write_json, write_text
from zoft.cli.processes import leave_together
from zoft.errors import ConfigError, ZoftWarning
from zoft.log_file import LOG_NAME

if TYPE_CHECKING:
    from zoft.evaluation.intervals import Difference
    from zoft.problems.modes import Measured, Settings
    from zoft.problems.problem import Problem
    from zoft.tasks.data import Splits

PROG = "zoft-eval"
DEMONSTRATIONS = 32


@dataclass
class EvaluationArguments:
    """What to measure, and where to write it."""

    _argument_group_name = "evaluation"

    modes: list[str] = field(
        default_factory=lambda: ["zero_shot"],
        metadata={
            "help": "One or several: zero_shot; in_context (solved training rows before each prompt); linear_probe (a "
            "logistic regression on what the output layer reads, fitted to the training rows).",
            "choices": ["zero_shot", "in_context", "linear_probe"],
        },
    )
    run: str | None = field(
        default=None,
        metadata={"help": "A run's folder: measure its model before and after training. Brings its recipe with it."},
    )
    num_demonstrations: int = field(
        default=DEMONSTRATIONS,
        metadata={"help": "In context: how many training rows are shown, as many of each class."},
    )
    context_length: int | None = field(
        default=None,
        metadata={
            "help": "In context: the longest prompt in tokens, the row's own max_length included; default: what the "
            "model can read. Demonstrations that do not fit are left out."
        },
    )
    sfc: bool = field(
        default=False,
        metadata={"help": "Also calibrate scores by the options' scores after the prompt without the row."},
    )
    sfc_template: str | None = field(
        default=None,
        metadata={"help": "That prompt; default: the task's, or else its template with the columns left out."},
    )
    output_file: str | None = field(default=None, metadata={"help": "Write the results into this file, as JSON."})
    predictions_file: str | None = field(
        default=None, metadata={"help": "Write what was said of each row into this file, as JSON lines."}
    )

    def __post_init__(self) -> None:
        if self.num_demonstrations < 1:
            raise ConfigError(f"num_demonstrations must be >= 1, got {self.num_demonstrations}")
        if self.context_length is not None and self.context_length < 1:
            raise ConfigError(f"context_length must be >= 1, got {self.context_length}")
        if "in_context" not in self.modes and (
            self.num_demonstrations != DEMONSTRATIONS or self.context_length is not None
        ):
            raise ConfigError("num_demonstrations and context_length are of mode in_context; add --modes in_context")
        if self.sfc_template is not None:
            if not self.sfc:
                raise ConfigError("sfc_template is what sfc calibrates by; add --sfc")
            self.sfc_template = self.sfc_template.replace("\\n", "\n")  # as shells hand a line break over


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``zoft-eval``."""
    parsed = parse_cli(
        _with_recipe_of_run(sys.argv[1:] if argv is None else argv),
        prog=PROG,
        description="Measure a language model on a recipe's held-out rows: as it is, shown examples, calibrated, or by "
        "a linear probe; before and after fine-tuning.",
        groups=(*TRAIN_GROUPS, EvaluationArguments),
    )
    with user_errors(PROG, interrupted="interrupted; nothing was written."):
        run(parsed)
        leave_together()


def run(parsed: ParsedArguments) -> dict[str, Any]:
    """Measure, print, write. Returns what ``output_file`` holds."""
    from torch import nn
    from transformers import TrainingArguments, set_seed

    from zoft.cli.families import family_of
    from zoft.cli.starts import start_of
    from zoft.evaluation.intervals import with_intervals
    from zoft.problems.modes import check_mode, measure
    from zoft.reporting.evaluation import evaluation_report
    from zoft.tasks.hygiene import plural

    args, options, data = parsed.get(TrainingArguments), parsed.get(EvaluationArguments), parsed.get(DataArguments)
    _check_privacy(parsed)
    for file in (options.output_file, options.predictions_file):
        check_writable(file)
    if options.run is not None:
        _check_saved(Path(options.run))
    set_seed(args.seed)
    family = family_of(parsed)
    rows = family.read(parsed)
    if options.run is not None:
        _warn_of_trained_rows(parsed, options.run, rows)
    model, processor = family.load(parsed, rows)
    problem = family.build(parsed, rows, model, processor)
    settings = _settings(parsed)
    modes = tuple(dict.fromkeys(options.modes))
    for mode in modes:
        check_mode(mode, problem, settings)
    shuffled = " - ALL LABELS ARE SHUFFLED (control run)" if data.shuffle_labels else ""
    _say(f"{plural(len(problem.evaluation), 'held-out row')}, {plural(len(problem.train), 'training row')}{shuffled}\n")

    def measured(model: nn.Module) -> list[Measured]:
        found = (one for mode in modes for one in measure(mode, problem, model, settings))
        return [replace(one, evaluation=with_intervals(one.evaluation, problem.metric)) for one in found]

    if options.run is None:
        results = {"model": measured(model)}
    else:
        if (start := start_of(parsed)) is not None:
            start.recall(model, Path(options.run, LOG_NAME))
        results = {"before": measured(model)}
        if parsed.get(AdapterArguments).use_peft:
            from zoft.cli.adapters import load_adapter

            load_adapter(model, Path(options.run))
        else:
            del model  # two of them may not fit
            model = family.load(_tuned(parsed, options.run), rows)[0]
        results["after"] = measured(model)
    differences = _differences(results, problem.metric)
    _say(evaluation_report(results, differences, problem.metric))
    found = {
        "model": options.run or parsed.get(ModelArguments).model_name_or_path,
        "metric": problem.metric,
        "results": [
            {"model": name, "mode": one.mode, **one.evaluation.scores, **one.facts}
            for name, of_model in results.items()
            for one in of_model
        ],
        "differences": {mode: asdict(difference) for mode, difference in differences.items()},
    }
    if args.process_index == 0:
        if options.output_file is not None:
            write_json(options.output_file, found, indent=2, ensure_ascii=False)
        if options.predictions_file is not None:
            write_text(options.predictions_file, "".join(_lines(results, problem)))
    return found


def _with_recipe_of_run(argv: Sequence[str]) -> list[str]:
    """Add the recipe of the run that is named, unless another one is given."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--run")
    parser.add_argument("--config")
    known, _ = parser.parse_known_args(argv)
    if known.run is None or known.config is not None:
        return list(argv)
    return ["--config", str(Path(known.run, "resolved_config.yaml")), *argv]


def _check_privacy(parsed: ParsedArguments) -> None:
    privacy = parsed.get(PrivacyArguments)
    if not privacy.is_private:
        return
    if not privacy.dp_eval_is_public:
        raise ConfigError(
            "the recipe is private and takes the held-out rows for private, too: to measure on them is to tell of "
            "them. If they are public, add --dp_eval_is_public true"
        )
    if exact := [mode for mode in parsed.get(EvaluationArguments).modes if mode != "zero_shot"]:
        raise ConfigError(f"{exact[0]} reads the training rows as they are, and the recipe is private; leave it out")


def _check_saved(run: Path) -> None:
    if not any(run.glob("*.safetensors")):
        raise ConfigError(
            f"run: there is no saved model in {str(run)!r}. A run that keeps only its log gets one by "
            f"zoft-replay --config {run}/resolved_config.yaml --save_to {run}"
        )


def _warn_of_trained_rows(parsed: ParsedArguments, run: str, rows: Splits) -> None:
    """Warn where other flags than the run's may have made held-out rows of some that the run was trained on."""
    recipe = Path(run, "resolved_config.yaml")
    if not recipe.is_file() or parsed.get(PrivacyArguments).is_private:
        return
    of_run = parse_cli(["--config", str(recipe)], prog=PROG, description="", groups=TRAIN_GROUPS)
    now, then = _what_holds_out(parsed), _what_holds_out(of_run)
    changed = [name for name, value in now.items() if value != then[name]]
    if changed and rows.evaluation[0].place.source == rows.train[0].place.source:
        what = f"another {' and '.join(changed)} than the run's makes other rows the held-out ones"
    elif parsed.get(DataArguments).eval_file != of_run.get(DataArguments).eval_file and rows.left_out.get("evaluation"):
        what = "some rows of eval_file have the text of a row of the training file"
    else:
        return
    warnings.warn(
        f"{what}: the run may have been trained on rows that are measured here, which flatters it",
        ZoftWarning,
        stacklevel=3,
    )


def _what_holds_out(parsed: ParsedArguments) -> dict[str, float | None]:
    """Return the settings that decide which rows of a file are held out."""
    from transformers import TrainingArguments

    args = parsed.get(TrainingArguments)
    seed = {"seed": args.seed} if args.data_seed is None else {"data_seed": args.data_seed}
    return {"seed": None, "data_seed": None, "eval_fraction": parsed.get(DataArguments).eval_fraction, **seed}


def _settings(parsed: ParsedArguments) -> Settings:
    from transformers import TrainingArguments

    from zoft.problems.modes import Settings

    args, options = parsed.get(TrainingArguments), parsed.get(EvaluationArguments)
    length = options.context_length
    return Settings(
        batch_size=args.per_device_eval_batch_size,
        device=args.device,
        num_demonstrations=options.num_demonstrations,
        context_length=length,
        sfc=options.sfc,
        sfc_template=options.sfc_template,
        seed=args.seed if args.data_seed is None else args.data_seed,
    )


def _tuned(parsed: ParsedArguments, run: str) -> ParsedArguments:
    """Return the recipe with the fine-tuned model in place of the one that was fine-tuned."""
    model = replace(parsed.get(ModelArguments), model_name_or_path=run, gguf_file=None)
    return replace(parsed, instances=tuple(model if type(one) is ModelArguments else one for one in parsed.instances))


def _differences(results: Mapping[str, Sequence[Measured]], metric: str) -> dict[str, Difference]:
    from zoft.evaluation.intervals import difference, has_interval

    if "before" not in results:
        return {}
    pairs = zip(results["before"], results["after"], strict=True)
    return {
        before.mode: difference(before.evaluation.predictions, after.evaluation.predictions, metric)
        for before, after in pairs
        if len(before.evaluation.predictions) > 1 and has_interval(before.evaluation.predictions, metric)
    }


def _lines(results: Mapping[str, Sequence[Measured]], problem: Problem) -> Iterator[str]:
    from zoft.evaluation.metrics import value_of

    for name, of_model in results.items():
        for one in of_model:
            for row, said in enumerate(one.evaluation.predictions):
                value = value_of(said, problem.metric)
                line = {
                    "model": name,
                    "mode": one.mode,
                    "row": row,
                    "prompt": problem.show(row),
                    "expected": said.expected,
                    "predicted": said.predicted,
                    "loss": said.loss,
                    **({} if value is None else {problem.metric: value}),
                }
                yield json.dumps(line, ensure_ascii=False) + "\n"


def _say(text: str) -> None:
    from accelerate import PartialState

    if PartialState().is_main_process:
        print(text, flush=True)


if __name__ == "__main__":
    main()
