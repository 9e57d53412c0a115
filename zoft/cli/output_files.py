"""Files and folders that the user named to be written: one clear error where they cannot be."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoft.errors import ConfigError

__all__ = ["check_writable", "make_output_dir", "write_json", "write_text", "writing"]


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Turn the operating system's refusal to write something into an error of the user's.

    Args:
        what: What is written, for the message.

    Raises:
        ConfigError: It cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{what} cannot be written: {error.strerror or error}") from None


def write_text(file: str, text: str) -> None:
    """Write a file that the user named, and say so on stderr.

    Raises:
        ConfigError: It cannot be written.
    """
    with writing(file):
        Path(file).write_text(text, encoding="utf-8")
    print(f"wrote {file}", file=sys.stderr)


def write_json(file: str, content: Any, *, indent: int = 1, ensure_ascii: bool = True) -> None:
    """Write plain JSON types into a file that the user named, and say so on stderr.

    Raises:
        ConfigError: It cannot be written.
    """
    write_text(file, json.dumps(content, indent=indent, ensure_ascii=ensure_ascii) + "\n")


def check_writable(file: str | None) -> None:
    """Make sure, before minutes have been spent, that there is a folder for a file that the user may have named.

    Raises:
        ConfigError: There is none, or it cannot be written into.
    """
    if file is not None and not os.access(Path(file).parent, os.W_OK):
        raise ConfigError(f"{file} cannot be written: there is no folder {str(Path(file).parent)!r} to write into")


def make_output_dir(name: str) -> Path:
    """Make the folder that ``output_dir`` names, unless it is there.

    Raises:
        ConfigError: It cannot be made.
    """
    folder = Path(name)
    with writing(f"output_dir {name!r}"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
