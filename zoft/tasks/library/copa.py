"""COPA: which of two sentences is the cause, or the effect, of a third (Roemmele et al. 2011), with MeZO's prompt."""

from __future__ import annotations

from typing import Any

from zoft.tasks.choices import ChoiceTask
from zoft.tasks.spec import TaskSpec

CONJUNCTIONS = {"cause": "because", "effect": "so"}


def prepare(row: dict[str, Any]) -> dict[str, Any]:
    """Make half a sentence of the premise, and of each choice its other half."""
    return {
        "premise": row["premise"].rstrip().rstrip("."),
        "conjunction": CONJUNCTIONS[row["question"]],
        "choices": [choice[:1].lower() + choice[1:] for choice in (row["choice1"], row["choice2"])],
        "label": row["label"],
    }


SPEC = TaskSpec(
    ChoiceTask("{premise} {conjunction}", choices_column="choices", trains_on="answer"),
    dataset="aps/super_glue",
    dataset_config_name="copa",
    prepare=prepare,
    sfc_template="{conjunction}",
    max_train_samples=300,  # of 400; MeZO takes 100 of them to choose the checkpoint by
    max_dev_samples=100,
    max_eval_samples=1000,
)
