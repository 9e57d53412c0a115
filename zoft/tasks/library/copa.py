"""COPA: which of two sentences is the cause, or the effect, of a third (Roemmele et al. 2011), with MeZO's prompt.

Labels, of SuperGLUE's card: 0 the first choice, 1 the second.
"""

from __future__ import annotations

from typing import Any

from zoft.tasks.choices import ChoiceTask
from zoft.tasks.spec import TaskSpec
from zoft.tasks.wording import lower_first_word, without_stop


def prepare(row: dict[str, Any]) -> dict[str, Any]:
    """Make half a sentence of the premise, and of each choice its other half."""
    return {
        "premise": without_stop(row["premise"]),
        "conjunction": "because" if row["question"] == "cause" else "so",
        "choices": [lower_first_word(row["choice1"]), lower_first_word(row["choice2"])],
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
