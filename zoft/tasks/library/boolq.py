"""BoolQ: a yes-no question about a passage (Clark et al. 2019), with MeZO's prompt.

Labels, of SuperGLUE's card: 0 no, 1 yes. The original release has a truth value in a column ``answer`` instead
(``google/boolq``); rows of that kind are read, too.
"""

from __future__ import annotations

from typing import Any

from zoft.tasks.prompted import PromptedTask
from zoft.tasks.rows import label_key
from zoft.tasks.spec import TaskSpec

TRUTH = {"false": 0, "true": 1}


def prepare(row: dict[str, Any]) -> dict[str, Any]:
    """Write the question as one, and the label as a number."""
    question = row["question"].strip().removesuffix("?")
    label = row["label"] if "label" in row else row["answer"]
    return {
        "passage": row["passage"],
        "question": question[:1].upper() + question[1:],
        "label": TRUTH.get(label_key(label), label),
    }


SPEC = TaskSpec(
    PromptedTask("{passage} {question}?\n", ("No", "Yes")),
    dataset="aps/super_glue",
    dataset_config_name="boolq",
    prepare=prepare,
    max_train_samples=1000,
    max_dev_samples=500,
    max_eval_samples=1000,
)
