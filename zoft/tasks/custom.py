"""Tasks of one's own, described in a YAML file; see docs/tasks.md."""

from __future__ import annotations

from dataclasses import MISSING, fields
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, get_type_hints

from zoft.errors import ConfigError, did_you_mean
from zoft.recipe import read_recipe
from zoft.tasks.answers import AnswerTask
from zoft.tasks.assets import is_packaged
from zoft.tasks.choices import ChoiceTask
from zoft.tasks.data import Prepare
from zoft.tasks.files import is_local_file
from zoft.tasks.plain_values import plain_value
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
    ``choices_column``) or `AnswerTask` (with ``answers_column``), and those of `TaskSpec`. ``prepare`` is written as
    ``file.py:function`` or ``package.module:function``. Local files are looked for beside the task's own file.

    Raises:
        ConfigError: The file cannot be read, has an unknown key or a value of another type than expected, or describes
            no task that can be used.
    """
    settings = read_recipe(path)
    folder = Path(path).parent
    try:
        kind = _kind_of(settings)
        values = {key: plain_value(key, value, hint) for key, value, hint in _hinted(settings, kind)}
        rows: dict[str, Any] = {key: values.pop(key) for key in _ROWS if key in values}
        task = kind(**values)
        if rows.get("prepare") is not None:
            rows["prepare"] = _function(rows["prepare"], folder)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    for key in ("dataset", "eval_file"):
        if rows.get(key) is not None:
            rows[key] = _beside(folder, rows[key])
    return TaskSpec(task, **rows)


def _kind_of(settings: dict[str, Any]) -> type[Task]:
    """Return what kind of task the settings are of, if none of them is unknown or missing."""
    kind = next((kind for key, kind in _BY_KEY.items() if key in settings), None)
    if kind is None:
        raise ConfigError(
            "a task has label_words (one for each class), choices or choices_column (a row's own options), or "
            f"answers_column (what the model is to write); found: {', '.join(settings)}"
        )
    own = fields(kind)  # type: ignore[arg-type]  # every kind is a dataclass
    known = [*(field.name for field in own), *_ROWS]
    for key in settings:
        if key not in known:
            chosen_by = next(name for name in _BY_KEY if name in settings)
            hint = did_you_mean(key, known) or f" Known, as there is {chosen_by}: {', '.join(known)}."
            raise ConfigError(f"unknown key {key!r}.{hint}")
    for field in own:
        if field.default is MISSING and field.name not in settings:
            example = "'{text} It was'" if field.name == "template" else "[terrible, great]"
            raise ConfigError(f"{field.name} is missing; write for example {field.name}: {example}")
    return kind


def _hinted(settings: dict[str, Any], kind: type[Task]) -> list[tuple[str, Any, Any]]:
    """Return each setting with its type; a function is written as text."""
    hints = {**get_type_hints(TaskSpec), "prepare": str | None, **get_type_hints(kind)}
    return [(key, value, hints[key]) for key, value in settings.items()]


def _beside(folder: Path, source: str) -> str:
    """Return a local file's path as it is from here, and any other name unchanged."""
    path = folder / Path(source).expanduser()
    return str(path) if not is_packaged(source) and is_local_file(str(path)) else source


def _function(name: str, folder: Path) -> Prepare:
    where, _, attribute = name.rpartition(":")
    try:
        if where.endswith(".py"):
            spec = spec_from_file_location(Path(where).stem, folder / where)
            assert spec is not None and spec.loader is not None  # as the name ends in .py
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = import_module(where)
        function: Prepare = getattr(module, attribute)
    except (ImportError, AttributeError, ValueError, OSError) as error:
        raise ConfigError(
            f"prepare: expected file.py:function or package.module:function, got {name!r} ({error})"
        ) from None
    except Exception as error:  # whatever the user's file does, a syntax error included
        raise ConfigError(f"prepare: {where!r} cannot be imported: {error!r}") from error
    if not callable(function):
        raise ConfigError(f"prepare: {name!r} is a {type(function).__name__}, expected a function")
    return function
