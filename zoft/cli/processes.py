"""What the processes of one run do together."""

from __future__ import annotations


def leave_together() -> None:
    """Wait for the other processes and close the connection: one that just goes may abort, which fails the run."""
    from accelerate import PartialState

    processes = PartialState()
    if processes.num_processes > 1:
        processes.wait_for_everyone()
        processes.destroy_process_group()
