"""DROP: answer a question that takes counting or arithmetic (Dua et al. 2019), with MeZO's prompt.

As with MeZO, each of an answer's spans is accepted by itself.
"""

from __future__ import annotations

from typing import Any

from zoft.tasks.answers import AnswerTask
from zoft.tasks.spec import TaskSpec


def prepare(row: dict[str, Any]) -> dict[str, Any]:
    """Take the accepted answers out of their column."""
    return {**row, "question": row["question"].strip(), "answers": list(row["answers_spans"]["spans"])}


SPEC = TaskSpec(
    AnswerTask("Passage: {passage}\nQuestion: {question}\nAnswer:"),
    dataset="ucinlp/drop",
    prepare=prepare,
    max_train_samples=1000,
    max_dev_samples=500,
    max_eval_samples=1000,
)
