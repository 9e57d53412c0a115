"""``zoft-bench COMMAND ...``: measure methods, and the theory, on this machine. One module a command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from zoft.cli.config import user_errors
from zoft.errors import ConfigError, did_you_mean

PROG = "zoft-bench"
COMMANDS: dict[str, str] = {  # name: what it does, for the help; the module of that name here has its main(argv)
    "methods": "compare methods at equal forwards, tuned by one rule (docs/benchmark.md)",
    "nzk": "the neural zeroth-order kernel: theory against training, with figures (docs/nzk.md)",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``zoft-bench``."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    with user_errors(PROG):
        if name in ("-h", "--help"):
            lines = [f"  {command:10} {what}" for command, what in COMMANDS.items()]
            print("\n".join([f"usage: {PROG} COMMAND [--help] ...", "", *lines]))
            return
        if name not in COMMANDS:
            raise ConfigError(
                f"there is no command {name!r}.{did_you_mean(name, list(COMMANDS))} Commands: {', '.join(COMMANDS)}."
            )
    import_module(f"{__name__}.{name}").main(rest)
