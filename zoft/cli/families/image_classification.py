"""Images, and a model with a layer for their classes."""

from __future__ import annotations

from typing import Any

from transformers import AutoImageProcessor, AutoModelForImageClassification

from zoft.cli.arguments.data import DataArguments
from zoft.cli.classifiers import build_problem, load_classifier, read_rows, task_of
from zoft.cli.config import ParsedArguments
from zoft.problems.problem import Problem
from zoft.tasks.class_encoding import ImageEncoder
from zoft.tasks.data import Splits
from zoft.tasks.image_rows import DIGEST, ImageReader, load_images
from zoft.tasks.scoring import language_model


def read(parsed: ParsedArguments) -> Splits:
    """Load, check and split the recipe's rows.

    Raises:
        AssetError: A packaged data set is missing or altered.
        ConfigError: The recipe asks for what this task does not have.
        DataError: The rows cannot be used.
    """
    data = parsed.get(DataArguments)
    return read_rows(parsed, [DIGEST], prepare=ImageReader(data.image_column, data.label_column), load=load_images)


def load(parsed: ParsedArguments, rows: Splits | None = None) -> tuple[Any, Any]:
    """Load the model, with a layer for the classes, and its image processor."""
    return load_classifier(
        parsed,
        rows,
        model_class=AutoModelForImageClassification,
        load_processor=AutoImageProcessor.from_pretrained,
    )


def build(parsed: ParsedArguments, rows: Splits, model: Any, processor: Any) -> Problem:
    """Prepare the recipe's rows for its model."""
    task = task_of([DIGEST], parsed.get(DataArguments).label_column, rows.labels, model)
    mode = "L" if getattr(language_model(model).config, "num_channels", 3) == 1 else "RGB"
    return build_problem(parsed, rows, ImageEncoder(task, processor, mode))
