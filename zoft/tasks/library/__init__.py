"""Published tasks by name, one small file each. Adding one is adding a file that defines ``SPEC``."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from zoft.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from zoft.tasks.spec import TaskSpec

__all__ = ["task_names", "task_spec"]


def task_names() -> tuple[str, ...]:
    """Return the names of all tasks, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def task_spec(name: str) -> TaskSpec:
    """Return a task by its name, in any case.

    Raises:
        ConfigError: There is no such task.
    """
    key = name.lower().replace("-", "_")
    if key not in task_names():
        raise ConfigError(
            f"there is no task {name!r}.{did_you_mean(key, task_names())} Known: {', '.join(task_names())}."
        )
    spec: TaskSpec = importlib.import_module(f"{__name__}.{key}").SPEC
    return spec
