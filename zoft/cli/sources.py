"""What `ModelArguments` name: where weights come from, in which precision, and where they go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from zoft.cli.arguments.model import ModelArguments
from zoft.errors import ConfigError
from zoft.tasks.assets import is_packaged, resolve_model

__all__ = ["device_map_of", "dtype_of", "source_of", "told_what_to_name"]


@contextmanager
def told_what_to_name(name: str) -> Iterator[None]:
    """Say, where a model cannot be found, what can be named instead."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"model_name_or_path {name!r} could not be loaded: {error}\n"
            "Without network, name a local folder, a .gguf file, or packaged:smollm2-135m-instruct"
        ) from error


def source_of(arguments: ModelArguments) -> tuple[str, str | None]:
    """Return what to load from, and the GGUF file in it, if it is one."""
    name = arguments.model_name_or_path
    if name is None:
        raise ConfigError("model_name_or_path is missing; try --model_name_or_path packaged:smollm2-135m-instruct")
    if is_packaged(name):
        if arguments.gguf_file is not None:
            raise ConfigError(f"gguf_file does not go with {name}, which brings its own file")
        return str(resolve_model(name)), None
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ConfigError(f"model_name_or_path: there is no file {name!r}")
        return str(path.parent), path.name
    if name.startswith(("/", "./", "../", "~")) and not path.is_dir():
        raise ConfigError(f"model_name_or_path: there is no folder {name!r}")
    return (str(path) if path.is_dir() else name), arguments.gguf_file


def device_map_of(given: str | None) -> str | dict[str, Any] | None:
    """Return a device map as transformers takes it."""
    if given is None or not given.lstrip().startswith("{"):
        return given
    try:
        parsed: dict[str, Any] = json.loads(given)
    except json.JSONDecodeError as error:
        raise ConfigError(f"device_map: expected a name or a JSON object, got {given!r} ({error})") from None
    return parsed


def dtype_of(name: str) -> torch.dtype | Literal["auto"]:
    """Return a precision as transformers takes it; ``auto`` is fp32 without a GPU."""
    if name == "auto":
        return "auto" if torch.cuda.is_available() else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
