"""Problems of a language model that is prompted, and chooses or writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from zoft.evaluation.answers import evaluate_answers
from zoft.evaluation.options import evaluate_options
from zoft.problems.problem import Problem
from zoft.tasks.answers import AnswerTask
from zoft.tasks.data import Splits
from zoft.tasks.encoding import EncodedPrompts, PromptEncoder
from zoft.tasks.scoring import answer_losses, option_losses
from zoft.tasks.template import fill

__all__ = ["PromptedProblem", "prompted_problem"]


@dataclass(frozen=True)
class PromptedProblem(Problem):
    """A problem whose prompts can be written in other ways, too.

    Attributes:
        train: Encoded examples to train on.
        evaluation: Those to measure on.
        encoder: The task, made ready for the model.
    """

    train: EncodedPrompts
    evaluation: EncodedPrompts
    encoder: PromptEncoder = field(kw_only=True)


def prompted_problem(encoder: PromptEncoder, splits: Splits, true_splits: Splits | None = None) -> PromptedProblem:
    """Encode rows, and say how they are trained on and measured.

    Args:
        encoder: The task, made ready for a model.
        splits: The rows.
        true_splits: In a control run: the rows with their true labels.
    """
    task = encoder.task
    train, evaluation = encoder.encode(splits.train, training=True), encoder.encode(splits.evaluation)
    evaluate = evaluate_answers if isinstance(task, AnswerTask) else evaluate_options
    return PromptedProblem(
        encoder=encoder,
        train=train,
        dev=encoder.encode(splits.dev) if splits.dev else None,
        evaluation=evaluation,
        collator=encoder.collator(),
        losses=answer_losses if task.trains_on == "answer" else option_losses,
        evaluate=partial(evaluate, encoder=encoder),
        metric=task.metric,
        show=lambda index: fill(task.template, evaluation.rows[index]),
        notes=(f"{train.truncated_share:.1%} of the training rows are cut to {encoder.limit} tokens",),
        true_evaluation=None if true_splits is None else encoder.encode(true_splits.evaluation),
    )
