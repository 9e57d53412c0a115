"""Tasks of one's own, described in a YAML file; see docs/tasks.md."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from zoft.errors import ConfigError, did_you_mean
from zoft.recipe import read_recipe
from zoft.tasks.answers import AnswerTask
from zoft.tasks.choices import ChoiceTask
from zoft.tasks.data import Prepare
from zoft.tasks.prompted import PromptedTask
from zoft.tasks.spec import TaskSpec
from zoft.tasks.task import Task

__all__ = ["read_task"]

_BY_KEY: dict[str, type[Task]] = {
    "label_words": PromptedTask,
    "choices": ChoiceTask,
    "choices_column": ChoiceTask,
    "answers_column": AnswerTask,
}
"""What kind of task a file describes is known by the first of these keys that it has."""

_ROWS = tuple(field.name for field in fields(TaskSpec) if field.name != "task")


def read_task(path: str | Path) -> TaskSpec:
    """Read a task from a file.

    Its keys are the arguments of `PromptedTask` (with ``label_words``), `ChoiceTask` (with ``choices`` or
    ``choices_column``) or `AnswerTask` (with ``answers_column``), and those of `TaskSpec`, with ``prepare`` as
    ``package.module:function``.

    Raises:
        ConfigError: The file cannot be read, has an unknown key, or describes no task that can be used.
    """
    settings = read_recipe(path)
    kind = next((kind for key, kind in _BY_KEY.items() if key in settings), None)
    if kind is None:
        raise ConfigError(
            f"{path}: a task has label_words (one for each class), choices or choices_column (a row's own options), or "
            f"answers_column (what the model is to write); found: {', '.join(settings)}"
        )
    own = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # every kind is a dataclass
    for key in settings:
        if key not in (*own, *_ROWS):
            raise ConfigError(f"{path}: unknown key {key!r}.{did_you_mean(key, (*own, *_ROWS))}")
    rows: dict[str, Any] = {key: settings[key] for key in _ROWS if key in settings}
    if "prepare" in rows:
        rows["prepare"] = _function(str(rows["prepare"]), str(path))
    try:
        task = kind(**{key: value for key, value in settings.items() if key in own})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except TypeError as error:  # a missing template
        raise ConfigError(f"{path}: {error}") from None
    return TaskSpec(task, **rows)


def _function(name: str, path: str) -> Prepare:
    module, _, attribute = name.partition(":")
    try:
        function: Prepare = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path}: prepare: expected package.module:function, got {name!r} ({error})") from None
    return function
