"""ReCoRD: which name fits into a sentence about a news article (Zhang et al. 2018), with MeZO's prompt.

Each option is the sentence with one of the article's names in its gap. A name is right if it is one of the accepted
answers, so that accuracy is SuperGLUE's exact match.
"""

from __future__ import annotations

from typing import Any

from zoft.tasks.choices import ChoiceTask
from zoft.tasks.spec import TaskSpec


def prepare(row: dict[str, Any]) -> dict[str, Any]:
    """Write the article's summary as a list, of which the sentence with the gap is the last point."""

    def filled(names: list[str]) -> list[str]:
        return list(dict.fromkeys(row["query"].replace("@placeholder", name) for name in names))

    return {
        "passage": row["passage"].replace("@highlight\n", "- "),
        "choices": filled(row["entities"]),
        "answers": filled(row["answers"]),
    }


SPEC = TaskSpec(
    ChoiceTask(
        "{passage}\n-", choices_column="choices", label_column=None, answers_column="answers", trains_on="answer"
    ),
    dataset="aps/super_glue",
    dataset_config_name="record",
    prepare=prepare,
    max_train_samples=1000,
    max_dev_samples=500,
    max_eval_samples=1000,
)
