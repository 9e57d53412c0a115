"""SQuAD: answer a question about a paragraph in its words (Rajpurkar et al. 2016), with MeZO's prompt."""

from __future__ import annotations

from typing import Any

from zoft.tasks.answers import AnswerTask
from zoft.tasks.spec import TaskSpec


def prepare(row: dict[str, Any]) -> dict[str, Any]:
    """Take the accepted answers out of their places in the paragraph."""
    return {**row, "question": row["question"].strip(), "answers": list(row["answers"]["text"])}


SPEC = TaskSpec(
    AnswerTask("Title: {title}\nContext: {context}\nQuestion: {question}\nAnswer:"),
    dataset="rajpurkar/squad",
    prepare=prepare,
    max_train_samples=1000,
    max_dev_samples=500,
    max_eval_samples=1000,
)
