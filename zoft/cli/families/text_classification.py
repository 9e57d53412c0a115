"""Texts, or pairs of texts, and a model with a layer for their classes."""

from __future__ import annotations

from functools import partial
from typing import Any

from transformers import AutoModelForSequenceClassification, AutoTokenizer

from zoft.cli.arguments.data import DataArguments
from zoft.cli.classifiers import build_problem, load_classifier, read_rows, task_of
from zoft.cli.config import ParsedArguments
from zoft.errors import ConfigError
from zoft.problems.problem import Problem
from zoft.tasks.class_encoding import TextEncoder
from zoft.tasks.data import Splits
from zoft.tasks.files import load_source


def read(parsed: ParsedArguments) -> Splits:
    """Load, check and split the recipe's rows.

    Raises:
        AssetError: A packaged data set is missing or altered.
        ConfigError: The recipe asks for what this task does not have.
        DataError: The rows cannot be used.
    """
    columns = parsed.get(DataArguments).text_columns
    if len(columns) not in (1, 2):
        raise ConfigError(f"text_columns must be one column, or two with a pair of texts; got {', '.join(columns)}")
    return read_rows(parsed, columns, load=partial(load_source, as_stored=True))


def load(parsed: ParsedArguments, rows: Splits | None = None) -> tuple[Any, Any]:
    """Load the model, with a layer for the classes, and its tokenizer."""
    return load_classifier(
        parsed,
        rows,
        model_class=AutoModelForSequenceClassification,
        load_processor=AutoTokenizer.from_pretrained,
        finish=_pad,
    )


def build(parsed: ParsedArguments, rows: Splits, model: Any, tokenizer: Any) -> Problem:
    """Encode the recipe's rows for its model."""
    data = parsed.get(DataArguments)
    task = task_of(data.text_columns, data.label_column, rows.labels, model)
    return build_problem(parsed, rows, TextEncoder(task, tokenizer, data.max_length))


def _pad(model: Any, tokenizer: Any) -> None:
    """Let a decoder's batches be padded, on the side from which it finds each text's last token."""
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ConfigError("the model's tokenizer has neither a padding nor an end-of-text token; set pad_token")
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
