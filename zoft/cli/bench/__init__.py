"""``zoft-bench COMMAND ...``: measure methods, and the theory, on this machine. One module a command."""

from __future__ import annotations

from collections.abc import Sequence

from zoft.cli.commands import dispatch

PROG = "zoft-bench"
COMMANDS: dict[str, str] = {  # name: what it does, for the help; the module of that name here has its main(argv)
    "methods": "compare methods at equal forwards, tuned by one rule (docs/benchmark.md)",
    "step": "one training step beside plain inference: time, memory, energy (docs/performance.md)",
    "growth": "how the time of a step grows with the model and the batch (docs/performance.md)",
    "memory": "peak memory of ways of training, predicted before a model is loaded (docs/performance.md)",
    "nzk": "the neural zeroth-order kernel: theory against training, with figures (docs/nzk.md)",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``zoft-bench``."""
    dispatch(argv, prog=PROG, package=__name__, commands=COMMANDS)
