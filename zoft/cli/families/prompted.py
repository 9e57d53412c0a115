"""Language models that are prompted: tasks of the library, of a file, or of a template in the recipe itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from transformers import TrainingArguments

from zoft.cli.arguments import AdapterArguments, DataArguments, ModelArguments, ObjectiveArguments, PrivacyArguments
from zoft.cli.config import ParsedArguments
from zoft.cli.models import load_model_and_tokenizer, model_kind, planned_kind
from zoft.errors import ConfigError
from zoft.evaluation.metrics import metric
from zoft.evaluation.rewards import RewardFunctions
from zoft.problems.problem import Problem
from zoft.problems.prompted import prompted_problem
from zoft.problems.rewarded import rewarded_problem
from zoft.tasks.answers import AnswerTask
from zoft.tasks.custom import read_task
from zoft.tasks.data import Splits, load_splits, permute_labels
from zoft.tasks.encoding import PromptEncoder
from zoft.tasks.library import task_spec
from zoft.tasks.prompted import PromptedTask
from zoft.tasks.prompts import PROMPT, ChatPromptEncoder, ChatPrompts, PromptColumn, PromptTask, has_messages
from zoft.tasks.scoring import language_model
from zoft.tasks.spec import TaskSpec
from zoft.tasks.task import ModelKind, Task

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


def prompts_of(data: DataArguments) -> TaskSpec:
    """Return the prompts of a recipe with reward functions: a task's, a template's, or the rows' own.

    Raises:
        ConfigError: The recipe says what is right, or the template cannot be used.
    """
    if data.task is not None:
        spec = spec_of(data)
        return replace(spec, task=PromptTask(spec.task.template, spec.task.columns))
    if data.label_words or data.labels:
        raise ConfigError("label_words and labels say what is right, and reward_funcs judge what is; leave one out")
    if data.template is not None:
        return TaskSpec(PromptTask(data.template))
    return TaskSpec(PromptTask(f"{{{PROMPT}}}", PromptColumn((PROMPT,))))


def load(parsed: ParsedArguments) -> tuple[Any, Any]:
    """Load model and tokenizer on the training device."""
    model_arguments = parsed.get(ModelArguments)
    spec = (prompts_of if parsed.get(ObjectiveArguments).reward_funcs else spec_of)(parsed.get(DataArguments))
    args = parsed.get(TrainingArguments)
    model, tokenizer = load_model_and_tokenizer(
        model_arguments, planned_kind(model_arguments, spec.task), adapter=parsed.get(AdapterArguments), seed=args.seed
    )
    # A quantised model is quantised where it is to stay, and a device map says where that is.
    settled = model_arguments.is_quantised or model_arguments.device_map is not None
    return model if settled else model.to(args.device), tokenizer


def build(parsed: ParsedArguments, model: Any, tokenizer: Any) -> Problem:
    """Load, split and encode the recipe's rows."""
    data, privacy = parsed.get(DataArguments), parsed.get(PrivacyArguments)
    if privacy.is_private and data.shuffle_labels:
        raise ConfigError(
            "shuffle_labels gives rows each other's labels, so that one row more would change others; a private run "
            "protects single rows. Leave one of them out"
        )
    if parsed.get(ObjectiveArguments).reward_funcs:
        return _rewarded(parsed, model, tokenizer)
    objective = parsed.get(ObjectiveArguments).objective
    optimizes_metric = objective != "cross_entropy"
    spec = spec_of(data)
    if optimizes_metric:
        spec = replace(spec, task=with_metric(spec.task, objective))
        if privacy.is_private and metric(objective).of_each is None:
            raise ConfigError(
                f"a private run adds up what single examples yield, and {objective} is a number of a whole batch; use "
                "cross_entropy, or a metric that is a mean over examples, such as accuracy"
            )
    kind = model_kind(model, spec.task)
    encoder = PromptEncoder(
        task_for(kind, spec.task),
        tokenizer,
        data.max_length,
        reserved=parsed.get(AdapterArguments).virtual_tokens,
        kind=kind,
    )
    splits = load_rows_of(parsed, spec)
    if not data.shuffle_labels:
        return prompted_problem(encoder, splits, optimizes_metric=optimizes_metric)
    label = spec.task.columns.label
    if label is None:
        raise ConfigError("shuffle_labels permutes labels, and this task has none; leave it out")
    shuffled = permute_labels(splits, label, _data_seed(parsed))
    return prompted_problem(encoder, shuffled, splits, optimizes_metric=optimizes_metric)


def with_metric(task: Task, name: str) -> Task:
    """Return a task whose score is another; it is trained on its options where it has some.

    Raises:
        ConfigError: There is no such metric.
    """
    metric(name)
    changed = {"metric": name} if isinstance(task, AnswerTask) else {"metric": name, "trains_on": "options"}
    return cast("Task", replace(cast("Any", task), **changed))  # every kind of task is a dataclass with these fields


def _rewarded(parsed: ParsedArguments, model: Any, tokenizer: Any) -> Problem:
    """Load, split and encode the prompts of a recipe with reward functions."""
    data, objective = parsed.get(DataArguments), parsed.get(ObjectiveArguments)
    if parsed.get(PrivacyArguments).is_private:
        raise ConfigError(
            "a reward function may remember other rows, and a private run promises that each counts alone; use "
            "cross_entropy"
        )
    if data.shuffle_labels:
        raise ConfigError("shuffle_labels is for tasks that say what is right, and reward_funcs judge; leave it out")
    rewards = RewardFunctions.of_paths(objective.reward_funcs or (), objective.reward_weights)
    spec = prompts_of(data)
    splits = load_rows_of(parsed, spec)
    kind = model_kind(model, spec.task)
    if kind == "masked":
        raise ConfigError("reward_funcs judge what a model writes, and a masked language model fills gaps")
    chat = has_messages(spec.task, splits.train)
    make_encoder = ChatPromptEncoder if chat else PromptEncoder
    encoder = make_encoder(
        ChatPrompts(tokenizer) if chat else spec.task,
        tokenizer,
        _prompt_length(model, data.max_length, objective.max_completion_length),
        reserved=parsed.get(AdapterArguments).virtual_tokens,
        kind=kind,
    )
    return rewarded_problem(
        encoder,
        splits,
        rewards,
        max_completion_length=objective.max_completion_length,
        temperature=objective.temperature,
        seed=parsed.get(TrainingArguments).seed,
    )


def _prompt_length(model: Any, max_length: int | None, max_completion_length: int) -> int | None:
    """Return how long a prompt may be so that the completion still fits into what the model can look at."""
    config = language_model(model).config
    positions = getattr(config, "max_position_embeddings", None)  # some know only distances
    if positions is None or config.is_encoder_decoder:
        return max_length
    if max_completion_length >= positions:
        raise ConfigError(
            f"max_completion_length {max_completion_length} leaves no room for a prompt: the model can look at "
            f"{positions} tokens"
        )
    room: int = positions - max_completion_length
    return room if max_length is None else min(max_length, room)


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
        eval_file=data.eval_file,
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
