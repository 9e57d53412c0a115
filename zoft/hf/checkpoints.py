"""Finding a checkpoint that was written to its end."""

from __future__ import annotations

import json
import re
from pathlib import Path

_FOLDER = re.compile(r"checkpoint-(\d+)")


def last_complete_checkpoint(output_dir: str) -> str | None:
    """Return the newest checkpoint folder that a kill did not cut short, or None.

    Trainer writes ``trainer_state.json`` last, so a checkpoint with a readable one is whole. One without the
    optimizer's state (``save_only_model``) cannot be gone on from.
    """
    found = []
    for folder in Path(output_dir).glob("checkpoint-*"):
        match = _FOLDER.fullmatch(folder.name)
        if match and _is_complete(folder):
            found.append((int(match[1]), str(folder)))
    return max(found)[1] if found else None


def _is_complete(folder: Path) -> bool:
    try:
        json.loads((folder / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    return (folder / "optimizer.pt").is_file()
