"""Language models that are rewarded for what they write after the recipe's prompts (docs/objectives.md)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers import TrainingArguments

from zoft.cli.arguments.adapter import AdapterArguments
from zoft.cli.arguments.data import DataArguments
from zoft.cli.arguments.objective import ObjectiveArguments
from zoft.cli.arguments.privacy import PrivacyArguments
from zoft.cli.config import ParsedArguments
from zoft.cli.families.prompted import load_for, load_rows_of, spec_of
from zoft.cli.models import model_kind
from zoft.errors import ConfigError
from zoft.evaluation.rewards import RewardFunctions
from zoft.problems.problem import Problem
from zoft.problems.rewarded import rewarded_problem
from zoft.tasks.data import Splits
from zoft.tasks.encoding import PromptEncoder
from zoft.tasks.prompts import PROMPT, ChatPromptEncoder, ChatPrompts, PromptColumn, PromptTask, has_messages
from zoft.tasks.scoring import language_model
from zoft.tasks.spec import TaskSpec


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


def read(parsed: ParsedArguments) -> Splits:
    """Load, check and split the recipe's prompts.

    Raises:
        AssetError: A packaged data set is missing or altered.
        ConfigError: The recipe names no rows, or asks of them what cannot be.
        DataError: The rows cannot be used.
    """
    data = parsed.get(DataArguments)
    if parsed.get(PrivacyArguments).is_private:
        raise ConfigError(
            "a reward function may remember other rows, and a private run promises that each counts alone; use "
            "cross_entropy"
        )
    if data.shuffle_labels:
        raise ConfigError("shuffle_labels is for tasks that say what is right, and reward_funcs judge; leave it out")
    return load_rows_of(parsed, prompts_of(data))


def load(parsed: ParsedArguments, rows: Any = None) -> tuple[Any, Any]:
    """Load model and tokenizer on the training device."""
    objective = parsed.get(ObjectiveArguments)
    RewardFunctions.of_paths(objective.reward_funcs or (), objective.reward_weights)  # refuses what cannot be found
    return load_for(parsed, prompts_of(parsed.get(DataArguments)).task)


def build(parsed: ParsedArguments, splits: Splits, model: Any, tokenizer: Any) -> Problem:
    """Encode the prompts for the model."""
    data, objective = parsed.get(DataArguments), parsed.get(ObjectiveArguments)
    task = prompts_of(data).task
    kind = model_kind(model, task)
    if kind == "masked":
        raise ConfigError("reward_funcs judge what a model writes, and a masked language model fills gaps")
    chat = has_messages(task, splits.train)
    make_encoder = ChatPromptEncoder if chat else PromptEncoder
    encoder = make_encoder(
        ChatPrompts(tokenizer) if chat else task,
        tokenizer,
        _prompt_length(model, data.max_length, objective.max_completion_length),
        reserved=parsed.get(AdapterArguments).virtual_tokens,
        kind=kind,
    )
    return rewarded_problem(
        encoder,
        splits,
        RewardFunctions.of_paths(objective.reward_funcs or (), objective.reward_weights),
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
