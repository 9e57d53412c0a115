"""Models with a layer for classes, of texts or of images: what a recipe may ask of them, and how they are loaded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel, TrainingArguments

from zoft.cli.approaches.first_order import OPTIMIZERS
from zoft.cli.arguments import (
    AdapterArguments,
    DataArguments,
    ModelArguments,
    ObjectiveArguments,
    PrivacyArguments,
    RunArguments,
    ZOArguments,
)
from zoft.cli.config import ParsedArguments
from zoft.cli.sources import device_map_of, dtype_of, source_of, told_what_to_name
from zoft.errors import ConfigError, ZoftWarning
from zoft.problems.classes import class_problem
from zoft.problems.problem import Problem
from zoft.tasks.class_encoding import ClassEncoder
from zoft.tasks.classes import ClassTask, in_order_of_model
from zoft.tasks.data import Load, Prepare, Splits, load_splits, permute_labels
from zoft.tasks.files import load_source
from zoft.tasks.rows import Columns, label_key
from zoft.tasks.scoring import language_model

__all__ = ["build_problem", "load_classifier", "read_rows", "task_of"]


def read_rows(
    parsed: ParsedArguments, text: Sequence[str], *, prepare: Prepare | None = None, load: Load = load_source
) -> Splits:
    """Load, check and split the recipe's rows; classes that it does not name are those of the training rows.

    Args:
        parsed: The recipe.
        text: The columns that tell rows apart.
        prepare: See `zoft.tasks.data.load_splits`.
        load: Likewise.

    Raises:
        AssetError: A packaged data set is missing or altered.
        ConfigError: The recipe asks for what these tasks do not have.
        DataError: The rows cannot be used.
    """
    data, privacy = parsed.get(DataArguments), parsed.get(PrivacyArguments)
    args = parsed.get(TrainingArguments)
    _refuse_foreign(parsed)
    return load_splits(
        Columns(tuple(text), data.label_column, tuple(map(label_key, data.labels or ()))),
        dataset=data.dataset,
        dataset_config_name=data.dataset_config_name,
        train_file=data.train_file,
        eval_file=data.eval_file,
        prepare=prepare,
        load=load,
        seed=args.seed if args.data_seed is None else args.data_seed,
        eval_fraction=data.eval_fraction,
        max_train_samples=data.max_train_samples,
        max_dev_samples=data.max_dev_samples,
        max_eval_samples=data.max_eval_samples,
        num_shots=data.num_shots,
        # Not among private rows that nothing is measured on: one of them would decide about many training rows.
        drop_shared_texts=not privacy.is_private or privacy.dp_eval_is_public,
    )


def _refuse_foreign(parsed: ParsedArguments) -> None:
    data, model = parsed.get(DataArguments), parsed.get(ModelArguments)
    if given := [name for name in ("template", "label_words") if getattr(data, name) is not None]:
        raise ConfigError(f"{given[0]} is for tasks with a prompt, and task {data.task} has none; leave it out")
    if parsed.get(ObjectiveArguments) != ObjectiveArguments():
        raise ConfigError(f"task {data.task} minimises the cross-entropy; leave out objective and reward_funcs")
    if data.dataset is None and data.train_file is None:
        raise ConfigError("a recipe needs rows: give dataset or train_file")
    if data.labels is not None and len(set(map(label_key, data.labels))) < max(2, len(data.labels)):
        raise ConfigError(f"labels must be at least two different classes, got {', '.join(data.labels)}")
    if model.is_quantised:
        raise ConfigError(f"load_in_8bit and load_in_4bit do not go with task {data.task}; leave them out")
    if model.device_map is not None and parsed.get(RunArguments).linear_probe_first:
        raise ConfigError("linear_probe_first writes a layer that device_map may have put elsewhere; leave one out")
    if parsed.get(PrivacyArguments).is_private:
        _refuse_in_private(parsed)


def _refuse_in_private(parsed: ParsedArguments) -> None:
    data = parsed.get(DataArguments)
    if data.labels is None:
        raise ConfigError("which classes private rows have tells of them; say which there are with labels")
    if parsed.get(RunArguments).linear_probe_first:
        raise ConfigError(
            "linear_probe_first fits a layer to the training rows as they are, and the run is private; leave one out"
        )
    if data.shuffle_labels:
        raise ConfigError(
            "shuffle_labels gives rows each other's labels, so that one row more would change others; a private run "
            "protects single rows. Leave one of them out"
        )
    if data.strict_data:
        raise ConfigError(
            "strict_data tells what the rows are like, which a private run keeps to itself. Leave one of them out"
        )


def load_classifier(
    parsed: ParsedArguments,
    splits: Splits | None,
    *,
    model_class: Any,
    load_processor: Callable[..., Any],
    finish: Callable[[Any, Any], None] = lambda model, processor: None,
) -> tuple[Any, Any]:
    """Load a model with a layer for the recipe's classes on the training device, and what prepares its inputs.

    Args:
        parsed: The recipe.
        splits: Its rows; None: the recipe names the classes.
        model_class: The Auto class of transformers.
        load_processor: Returns what prepares the inputs, of a name.
        finish: Makes the two fit each other.

    Raises:
        AssetError: A packaged model is unknown, missing or altered.
        ConfigError: The model cannot be loaded, or the recipe asks for what it does not have.
    """
    arguments, data, args = parsed.get(ModelArguments), parsed.get(DataArguments), parsed.get(TrainingArguments)
    labels = tuple(map(label_key, data.labels or ())) if splits is None else splits.labels
    if not labels:
        raise ConfigError(
            "labels is missing: without rows, nothing else says which classes there are. A run's resolved_config.yaml "
            "holds them"
        )
    name, gguf_file = source_of(arguments)
    if gguf_file is not None:
        raise ConfigError(f"GGUF files hold language models, and task {data.task} needs one with a layer for classes")
    with torch.random.fork_rng(devices=[]), told_what_to_name(name):
        torch.manual_seed(args.seed)
        try:
            config = AutoConfig.from_pretrained(name, trust_remote_code=arguments.trust_remote_code)
            ordered, names = in_order_of_model(labels, _names(config))
            processor = load_processor(name, trust_remote_code=arguments.trust_remote_code)
            model, info = model_class.from_pretrained(
                name,
                num_labels=len(labels),
                id2label=dict(enumerate(names)),
                label2id={name: place for place, name in enumerate(names)},
                dtype=dtype_of(arguments.dtype),
                device_map=device_map_of(arguments.device_map),
                attn_implementation=arguments.attn_implementation,
                trust_remote_code=arguments.trust_remote_code,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except ValueError as error:  # an architecture without this layer, an unknown attention, remote code not trusted
            raise ConfigError(f"{name!r} could not be loaded for task {data.task}: {error}") from error
        finish(model, processor)
        fresh = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
        _warn_of_random_layers(parsed, name, fresh)
        if not fresh:
            _warn_of_other_classes(parsed, name, _names(config), ordered)
        adapter = parsed.get(AdapterArguments)
        if adapter.use_peft:
            model = _with_adapter(model, adapter)
    return (model if arguments.device_map is not None else model.to(args.device)), processor


def _names(config: Any) -> tuple[str, ...]:
    return tuple(str(config.id2label[place]) for place in sorted(config.id2label))


def _warn_of_random_layers(parsed: ParsedArguments, name: str, fresh: Sequence[str]) -> None:
    by_gradients = parsed.get(ZOArguments).zo_method in OPTIMIZERS
    if fresh and not by_gradients and not parsed.get(RunArguments).linear_probe_first:
        warnings.warn(
            f"{name} does not hold {', '.join(fresh[:3])}{', ...' if len(fresh) > 3 else ''}: the layer for the "
            "classes starts out random, and from there forward passes teach little. Add --linear_probe_first, which "
            "fits it to the training rows first",
            ZoftWarning,
            stacklevel=4,
        )


def _warn_of_other_classes(parsed: ParsedArguments, name: str, known: Sequence[str], labels: Sequence[str]) -> None:
    """Warn of a layer that is kept, and was made for other classes than those that its outputs now stand for."""
    _, names = in_order_of_model(labels, known)
    is_made_up = all(one == f"LABEL_{place}" for place, one in enumerate(known))
    if is_made_up or names == tuple(known) or parsed.get(RunArguments).linear_probe_first:
        return
    warnings.warn(
        f"{name} tells apart {', '.join(known[:4])}{', ...' if len(known) > 4 else ''}, and the rows are of "
        f"{', '.join(labels[:4])}{', ...' if len(labels) > 4 else ''}: its layer for classes is kept, and its first "
        f"output ({known[0]}) now stands for {labels[0]}. If that is not what it means, add --linear_probe_first, "
        "which fits the layer to the training rows, or name the labels in the model's order",
        ZoftWarning,
        stacklevel=4,
    )


def _with_adapter(model: PreTrainedModel, adapter: AdapterArguments) -> Any:
    """Put an adapter over a model, with the layers that are not of its body trained whole beside it."""
    if adapter.peft_type != "lora":
        raise ConfigError(
            f"peft_type {adapter.peft_type} saves no layer for classes with it, and this model's is fresh; use lora"
        )
    from zoft.cli.adapters import with_adapter  # imports PEFT, which a run without adapters need not wait for

    body = model.base_model
    heads = [name for name, module in model.named_children() if module is not body and list(module.parameters())]
    if not heads:
        raise ConfigError(f"{type(model).__name__} keeps its layer for classes in its body; train it without use_peft")
    kept = sorted({*(adapter.lora_modules_to_save or ()), *heads})
    return with_adapter(model, None, replace(adapter, lora_modules_to_save=kept), kind="classifier")


def task_of(columns: Sequence[str], label_column: str, labels: Sequence[str], model: Any) -> ClassTask:
    """Return a loaded model's task.

    Args:
        columns: The columns that are read.
        label_column: The column with the label.
        labels: The data's labels.
        model: The model.
    """
    ordered, names = in_order_of_model(labels, _names(language_model(model).config))
    return ClassTask(Columns(tuple(columns), label_column, ordered), names)


def build_problem(parsed: ParsedArguments, splits: Splits, encoder: ClassEncoder) -> Problem:
    """Encode the recipe's rows for its model, and inspect them if they are not private."""
    data, args = parsed.get(DataArguments), parsed.get(TrainingArguments)
    asked = parsed.get(RunArguments).linear_probe_first
    probe = {"batch_size": args.per_device_eval_batch_size, "device": args.device} if asked else None
    is_private = parsed.get(PrivacyArguments).is_private
    if not data.shuffle_labels:
        return class_problem(encoder, splits, inspect=not is_private, probe=probe)
    seed = args.seed if args.data_seed is None else args.data_seed
    return class_problem(encoder, permute_labels(splits, data.label_column, seed), splits, probe=probe)
