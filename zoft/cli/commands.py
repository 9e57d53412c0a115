"""Programs of several commands, each of which is a module with a ``main(argv)``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from zoft.cli.config import user_errors
from zoft.errors import ConfigError, did_you_mean


def dispatch(argv: Sequence[str] | None, *, prog: str, package: str, commands: Mapping[str, str]) -> None:
    """Hand a command line to the command that it names first; print the commands for ``--help`` or nothing.

    Args:
        argv: The arguments, without the program's name; None for those of this process.
        prog: The program's name.
        package: Where the commands' modules are.
        commands: Their names, and what they do.

    Raises:
        SystemExit: Code 2 after an error.
    """
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    with user_errors(prog):
        if name in ("-h", "--help"):
            lines = [f"  {command:10} {what}" for command, what in commands.items()]
            print("\n".join([f"usage: {prog} COMMAND [--help] ...", "", *lines]))
            return
        if name not in commands:
            raise ConfigError(
                f"there is no command {name!r}.{did_you_mean(name, list(commands))} Commands: {', '.join(commands)}."
            )
    import_module(f"{package}.{name}").main(rest)
