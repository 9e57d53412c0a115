"""``zoft-privacy COMMAND ...``: what a private run promises, and whether it holds. One module a command."""

from __future__ import annotations

from collections.abc import Sequence

from zoft.cli.commands import dispatch

PROG = "zoft-privacy"
COMMANDS: dict[str, str] = {  # name: what it does, for the help; the module of that name here has its main(argv)
    "audit": "run the mechanism with and without a chosen example, and bound what that tells (docs/privacy-audit.md)",
    "plan": "what a run would cost, before it begins: its noise, its epsilon over the steps, what it rests on",
    "table": "the noise that budgets ask for: steps x batch sizes x epsilons",
    "report": "what a run has spent and released, from its log: zoft-report's section on privacy",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``zoft-privacy``."""
    dispatch(argv, prog=PROG, package=__name__, commands=COMMANDS)
