"""Supervised fine-tuning of causal language models, on conversations, instructions and texts in TRL's formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from zoft.cli.arguments.adapter import AdapterArguments
from zoft.cli.arguments.data import DataArguments
from zoft.cli.arguments.model import ModelArguments
from zoft.cli.arguments.objective import ObjectiveArguments
from zoft.cli.arguments.privacy import PrivacyArguments
from zoft.cli.arguments.tasks import SFT
from zoft.cli.config import ParsedArguments
from zoft.cli.models import load_model_and_tokenizer, trained_kind
from zoft.errors import ConfigError
from zoft.problems.problem import Problem
from zoft.problems.sft import sft_problem
from zoft.tasks.conversation_encoding import ConversationEncoder
from zoft.tasks.conversations import ConversationReader
from zoft.tasks.data import Splits, load_splits
from zoft.tasks.rows import Columns

_READ = Columns(text=("transcript",))
_OF_PROMPTS = ("template", "label_words", "labels", "label_column", "num_shots", "shuffle_labels")
_SUFFIXES = (".jinja", ".j2")


def load(parsed: ParsedArguments, rows: Any = None) -> tuple[Any, Any]:
    """Load model and tokenizer on the training device, with the recipe's chat template, if it names one.

    Raises:
        ConfigError: The recipe is not one of this task, or the model is none that writes on.
    """
    model_arguments, data, args = parsed.get(ModelArguments), parsed.get(DataArguments), parsed.get(TrainingArguments)
    defaults = DataArguments()
    if given := [name for name in _OF_PROMPTS if getattr(data, name) != getattr(defaults, name)]:
        raise ConfigError(f"{given[0]} is for tasks with a template, and task {SFT} has none; leave it out")
    if data.max_new_tokens < 0:
        raise ConfigError(f"max_new_tokens must be at least 0, got {data.max_new_tokens}")
    template = None if data.chat_template_path is None else _read_template(data.chat_template_path)
    if (kind := trained_kind(model_arguments)) != "causal":
        what = "has an encoder and a decoder" if kind == "seq2seq" else "is a masked language model"
        raise ConfigError(
            f"task {SFT} needs a causal language model, which writes on from what it reads; "
            f"{model_arguments.model_name_or_path!r} {what}"
        )
    model, tokenizer = load_model_and_tokenizer(
        model_arguments, kind, adapter=parsed.get(AdapterArguments), seed=args.seed
    )
    if template is not None:
        tokenizer.chat_template = template
    # A quantised model is quantised where it is to stay, and a device map says where that is.
    settled = model_arguments.is_quantised or model_arguments.device_map is not None
    return model if settled else model.to(args.device), tokenizer


def read(parsed: ParsedArguments) -> Splits:
    """Load, check and split the recipe's rows.

    Raises:
        AssetError: A packaged data set is missing or altered.
        ConfigError: The recipe names no rows, or asks of them what cannot be.
        DataError: The rows cannot be used.
    """
    data, privacy, args = parsed.get(DataArguments), parsed.get(PrivacyArguments), parsed.get(TrainingArguments)
    if parsed.get(ObjectiveArguments) != ObjectiveArguments():
        raise ConfigError(
            f"task {SFT} minimises the cross-entropy of what its rows say; leave out objective, or give reward_funcs a "
            "file with prompts and no task"
        )
    if data.dataset is None and data.train_file is None:
        raise ConfigError("a recipe needs rows: give dataset or train_file")
    return load_splits(
        _READ,
        dataset=data.dataset,
        dataset_config_name=data.dataset_config_name,
        train_file=data.train_file,
        eval_file=data.eval_file,
        prepare=ConversationReader(assistant_only=data.assistant_only_loss),
        seed=args.seed if args.data_seed is None else args.data_seed,
        eval_fraction=data.eval_fraction,
        max_train_samples=data.max_train_samples,
        max_dev_samples=data.max_dev_samples,
        max_eval_samples=data.max_eval_samples,
        # Not among private rows that nothing is measured on: one of them would decide about many training rows.
        drop_shared_texts=not privacy.is_private or privacy.dp_eval_is_public,
    )


def build(parsed: ParsedArguments, splits: Splits, model: Any, tokenizer: Any) -> Problem:
    """Encode the recipe's rows."""
    data = parsed.get(DataArguments)
    encoder = ConversationEncoder(
        tokenizer,
        data.max_length,
        reserved=parsed.get(AdapterArguments).virtual_tokens,
        assistant_only=data.assistant_only_loss,
    )
    return sft_problem(
        encoder,
        splits,
        max_new_tokens=data.max_new_tokens,
        is_private=parsed.get(PrivacyArguments).is_private,
    )


def _read_template(name: str) -> str:
    path = Path(name).expanduser()
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"chat_template_path: expected a file ending in {' or '.join(_SUFFIXES)}, got {name!r}")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"chat_template_path {name!r} cannot be read: {error.strerror}") from None
