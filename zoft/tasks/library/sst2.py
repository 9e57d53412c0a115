"""SST-2: is a sentence of a film review negative or positive (Socher et al. 2013), with MeZO's prompt.

Labels, of the data set's card: 0 negative, 1 positive.
"""

from __future__ import annotations

from typing import Any

from zoft.tasks.prompted import PromptedTask
from zoft.tasks.spec import TaskSpec


def prepare(row: dict[str, Any]) -> dict[str, Any]:
    """Take away the space that GLUE's sentences end in."""
    return {**row, "sentence": row["sentence"].strip()}


SPEC = TaskSpec(
    PromptedTask("{sentence} It was", ("terrible", "great")),
    dataset="nyu-mll/glue",
    dataset_config_name="sst2",
    prepare=prepare,
    max_train_samples=1000,
    max_dev_samples=500,
    max_eval_samples=1000,
)
