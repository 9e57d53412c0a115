"""What a benchmark trains. A kind of problem is one frozen dataclass of options that builds it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from zoft.bench.options import fill
from zoft.bench.problems.protocol import Problem, Scores, Task
from zoft.errors import ConfigError, did_you_mean

__all__ = ["KINDS", "Problem", "Scores", "Task", "make_task"]

# The class of each kind, in the module of its name: transformers takes seconds to import, and tables do without.
KINDS = {"encoder": "Encoder", "prompted": "Prompted", "tabular": "Tabular"}


def make_task(options: object, where: str) -> Task:
    """Build a task from a recipe's mapping, whose key ``kind`` says which.

    Raises:
        ConfigError: If the kind or an option is unknown, or a value is out of range.
    """
    if not isinstance(options, Mapping) or "kind" not in options:
        raise ConfigError(f"{where}: expected a mapping with a key 'kind' ({', '.join(KINDS)}), got {options!r}.")
    kind = options["kind"]
    if kind not in KINDS:
        raise ConfigError(
            f"{where}: there is no kind {kind!r}.{did_you_mean(str(kind), KINDS)} Known: {', '.join(KINDS)}."
        )
    options_of_kind = getattr(import_module(f"{__name__}.{kind}"), KINDS[kind])
    task: Task = fill(options_of_kind, {name: value for name, value in options.items() if name != "kind"}, where)
    return task
