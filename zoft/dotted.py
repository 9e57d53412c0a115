"""Functions of the user's, named in a recipe."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from zoft.errors import ConfigError

__all__ = ["load_function"]


def load_function(path: str, what: str) -> Callable[..., Any]:
    """Return the function that a path names.

    Modules in the current folder are found too, after those that are installed.

    Args:
        path: ``package.module:function``, or ``package.module.function``.
        what: The setting that holds the path, for messages.

    Raises:
        ConfigError: There is no such module or function, or the module cannot be imported.
    """
    separator = ":" if ":" in path else "."
    module, _, name = path.rpartition(separator)
    if not module or not name:
        raise ConfigError(f"{what}: expected package.module:function, got {path!r}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # and it stays: the function may import its neighbours when it is called
    try:
        function = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise ConfigError(f"{what}: {module!r} cannot be imported: {error}") from error
        raise ConfigError(
            f"{what}: there is no module {error.name!r}, of which {path!r} is to come; modules are looked for among "
            f"the installed packages and in {os.getcwd()}"
        ) from None
    except AttributeError:
        raise ConfigError(f"{what}: the module {module!r} has no {name!r}") from None
    except Exception as error:  # whatever the user's module does when it is imported
        raise ConfigError(f"{what}: {module!r} cannot be imported: {error!r}") from error
    if not callable(function):
        raise ConfigError(f"{what}: {path!r} is a {type(function).__name__}, expected a function")
    return function  # type: ignore[no-any-return]  # what is callable
