"""SNLI for masked language models: does a sentence follow from another, or contradict it (Bowman et al. 2015).

The prompt is LM-BFF's (Gao et al. 2021, arXiv 2012.15723), which MeZO uses. Labels, of the data set's card:
0 entailment, 1 neutral, 2 contradiction, -1 no agreement.
"""

from __future__ import annotations

from typing import Any

from zoft.tasks.prompted import PromptedTask
from zoft.tasks.spec import TaskSpec
from zoft.tasks.wording import as_one_sentence

NO_AGREEMENT = "-1"


def prepare(row: dict[str, Any]) -> dict[str, Any] | None:
    """Leave out pairs on which the annotators did not agree."""
    return None if str(row["label"]) == NO_AGREEMENT else as_one_sentence(row)


SPEC = TaskSpec(
    PromptedTask("{premise} ? [MASK] , {hypothesis}", ("Yes", "Maybe", "No")),
    dataset="stanfordnlp/snli",
    prepare=prepare,
    max_train_samples=1000,
    max_dev_samples=500,
    max_eval_samples=1000,
)
