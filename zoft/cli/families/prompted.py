"""Language models that are prompted: tasks of the library, of a file, or of a template in the recipe itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from transformers import TrainingArguments

from zoft.cli.arguments.adapter import AdapterArguments
from zoft.cli.arguments.data import DataArguments
from zoft.cli.arguments.model import ModelArguments
from zoft.cli.arguments.objective import ObjectiveArguments
from zoft.cli.arguments.privacy import PrivacyArguments
from zoft.cli.config import ParsedArguments
from zoft.cli.models import load_model_and_tokenizer, model_kind, planned_kind
from zoft.errors import ConfigError
from zoft.evaluation.metrics import metric
from zoft.problems.problem import Problem
from zoft.problems.prompted import prompted_problem
from zoft.tasks.answers import AnswerTask
from zoft.tasks.custom import read_task
from zoft.tasks.data import Splits, load_splits, permute_labels
from zoft.tasks.encoding import PromptEncoder
from zoft.tasks.library import task_spec
from zoft.tasks.prompted import PromptedTask
from zoft.tasks.shared_prompts import learn_whether_prompts_are_shared
from zoft.tasks.spec import TaskSpec
from zoft.tasks.task import ModelKind, Task

CROSS_ENTROPY = "cross_entropy"
INLINE = ("template", "label_words", "labels", "label_column")


def spec_of(data: DataArguments) -> TaskSpec:
    """Return the task of a recipe: ``task``, or the template in the recipe itself.

    Raises:
        ConfigError: Neither is given, or both are, or they cannot be used.
    """
    if data.task is not None:
        defaults = DataArguments()
        if given := [name for name in INLINE if getattr(data, name) != getattr(defaults, name)]:
            raise ConfigError(f"{given[0]} belongs to a task of your own, and task {data.task!r} brings its own")
        is_file = Path(data.task).suffix.lower() in (".yaml", ".yml")
        return read_task(data.task) if is_file else task_spec(data.task)
    if data.template is None or not data.label_words:
        raise ConfigError(
            'a recipe needs a task (--task sst2), or a template and label_words, for example --template "{text}\\n'
            'Overall, the movie was" --label_words terrible great'
        )
    return TaskSpec(PromptedTask(data.template, tuple(data.label_words), _labels(data), data.label_column))


def read(parsed: ParsedArguments) -> Splits:
    """Load, check and split the recipe's rows.

    Raises:
        AssetError: A packaged data set is missing or altered.
        ConfigError: The recipe names no rows, or asks of them what cannot be.
        DataError: The rows cannot be used.
    """
    data = parsed.get(DataArguments)
    spec = spec_of(data)
    if data.shuffle_labels and spec.task.columns.label is None:
        raise ConfigError("shuffle_labels permutes labels, and this task has none; leave it out")
    if parsed.get(PrivacyArguments).is_private:
        if data.shuffle_labels:
            raise ConfigError(
                "shuffle_labels gives rows each other's labels, so that one row more would change others; a private "
                "run protects single rows. Leave one of them out"
            )
        if data.strict_data:
            raise ConfigError(
                "strict_data tells what the rows are like, which a private run keeps to itself. Leave one of them out"
            )
    return load_rows_of(parsed, spec)


def load(parsed: ParsedArguments, rows: Any = None) -> tuple[Any, Any]:
    """Load model and tokenizer on the training device."""
    task = _task(parsed)
    metric(task.metric, has_classes=task.columns.label is not None)  # an unknown one is to be known before all else
    model, tokenizer = load_for(parsed, task)
    if rows is not None:  # a replay has none, and evaluates nothing
        learn_whether_prompts_are_shared(model)
    return model, tokenizer


def load_for(parsed: ParsedArguments, task: Task) -> tuple[Any, Any]:
    """Load the model as what the task's prompts are for, and its tokenizer, on the training device."""
    model_arguments, args = parsed.get(ModelArguments), parsed.get(TrainingArguments)
    model, tokenizer = load_model_and_tokenizer(
        model_arguments, planned_kind(model_arguments, task), adapter=parsed.get(AdapterArguments), seed=args.seed
    )
    # A quantised model is quantised where it is to stay, and a device map says where that is.
    settled = model_arguments.is_quantised or model_arguments.device_map is not None
    return model if settled else model.to(args.device), tokenizer


def build(parsed: ParsedArguments, splits: Splits, model: Any, tokenizer: Any) -> Problem:
    """Encode the recipe's rows for its model, and inspect them if they are not private."""
    data, is_private = parsed.get(DataArguments), parsed.get(PrivacyArguments).is_private
    task, objective = _task(parsed), parsed.get(ObjectiveArguments).objective
    optimizes_metric = objective != CROSS_ENTROPY
    if optimizes_metric and is_private and metric(objective).of_each is None:
        raise ConfigError(
            f"a private run adds up what single examples yield, and {objective} is a number of a whole batch; use "
            "cross_entropy, or a metric that is a mean over examples, such as accuracy"
        )
    kind = model_kind(model, task)
    encoder = PromptEncoder(
        task_for(kind, task),
        tokenizer,
        data.max_length,
        reserved=parsed.get(AdapterArguments).virtual_tokens,
        kind=kind,
    )
    label = task.columns.label
    if data.shuffle_labels and label is not None:
        shuffled = permute_labels(splits, label, _data_seed(parsed))
        return prompted_problem(encoder, shuffled, splits, optimizes_metric=optimizes_metric)
    return prompted_problem(encoder, splits, inspect=not is_private, optimizes_metric=optimizes_metric)


def _task(parsed: ParsedArguments) -> Task:
    """Return the recipe's task; its score is what is optimised, if that is a score."""
    task, objective = spec_of(parsed.get(DataArguments)).task, parsed.get(ObjectiveArguments).objective
    return task if objective == CROSS_ENTROPY else with_metric(task, objective)


def with_metric(task: Task, name: str) -> Task:
    """Return a task whose score is another; it is trained on its options where it has some.

    Raises:
        ConfigError: There is no such metric.
    """
    metric(name)
    changed = {"metric": name} if isinstance(task, AnswerTask) else {"metric": name, "trains_on": "options"}
    return cast("Task", replace(cast("Any", task), **changed))  # every kind of task is a dataclass with these fields


def task_for(kind: ModelKind, task: Task) -> Task:
    """Return the task as a model of this kind reads it: with a mask, for a masked one, where it has none.

    Raises:
        ConfigError: A masked language model cannot do it.
    """
    if kind != "masked":
        return task
    if not isinstance(task, PromptedTask):
        raise ConfigError(
            "a masked language model predicts one token, and the options of this task have several words; use a "
            "causal model, or one with an encoder and a decoder"
        )
    return task.with_mask()


def load_rows_of(parsed: ParsedArguments, spec: TaskSpec) -> Splits:
    """Load and split a recipe's rows, from where the recipe says or else the task."""
    data, privacy = parsed.get(DataArguments), parsed.get(PrivacyArguments)
    own = data.dataset is not None or data.train_file is not None
    if not own and spec.dataset is None:
        raise ConfigError("a recipe needs rows: give dataset or train_file")
    sizes = {
        name: getattr(data, name) if getattr(data, name) is not None else getattr(spec, name)
        for name in ("max_train_samples", "max_dev_samples", "max_eval_samples")
    }
    if data.num_shots is not None:
        sizes = {"max_eval_samples": sizes["max_eval_samples"]} | {
            name: getattr(data, name) for name in ("max_train_samples", "max_dev_samples")
        }
    return load_splits(
        spec.task.columns,
        dataset=data.dataset if own else spec.dataset,
        dataset_config_name=data.dataset_config_name if own else spec.dataset_config_name,
        train_file=data.train_file,
        eval_file=data.eval_file if own or data.eval_file is not None else spec.eval_file,
        eval_split=None if own else spec.eval_split,
        prepare=spec.prepare,
        eval_fraction=data.eval_fraction,
        seed=_data_seed(parsed),
        num_shots=data.num_shots,
        # Not among private rows that nothing is measured on: one of them would decide about many training rows.
        drop_shared_texts=not privacy.is_private or privacy.dp_eval_is_public,
        **sizes,
    )


def _data_seed(parsed: ParsedArguments) -> int:
    args = parsed.get(TrainingArguments)
    return args.seed if args.data_seed is None else args.data_seed


def _labels(data: DataArguments) -> tuple[str | int | bool, ...] | None:
    return None if data.labels is None else tuple(data.labels)
