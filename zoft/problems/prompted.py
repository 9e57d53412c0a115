"""Problems of a language model that is prompted, and chooses or writes."""

from __future__ import annotations

from functools import partial

from zoft.evaluation.answers import evaluate_answers
from zoft.evaluation.metrics import metric
from zoft.evaluation.options import evaluate_options
from zoft.problems.objectives.scores import score_losses
from zoft.problems.problem import Losses, Problem
from zoft.tasks.answers import AnswerTask
from zoft.tasks.data import Splits
from zoft.tasks.encoding import PromptEncoder
from zoft.tasks.scoring import answer_losses, option_losses
from zoft.tasks.template import fill

__all__ = ["prompted_problem"]


def prompted_problem(
    encoder: PromptEncoder, splits: Splits, true_splits: Splits | None = None, *, optimizes_metric: bool = False
) -> Problem:
    """Encode rows, and say how they are trained on and measured.

    Args:
        encoder: The task, made ready for a model.
        splits: The rows.
        true_splits: In a control run: the rows with their true labels.
        optimizes_metric: Train on the task's metric itself, in place of the cross-entropy.
    """
    task = encoder.task
    # A metric looks at all options, a cross-entropy of the answer at that alone.
    train = encoder.encode(splits.train, training=not optimizes_metric)
    evaluation = encoder.encode(splits.evaluation)
    evaluate = evaluate_answers if isinstance(task, AnswerTask) else evaluate_options
    losses: Losses = answer_losses if task.trains_on == "answer" else option_losses
    return Problem(
        train=train,
        dev=encoder.encode(splits.dev) if splits.dev else None,
        evaluation=evaluation,
        collator=encoder.collator(),
        losses=score_losses(encoder, train, metric(task.metric)) if optimizes_metric else losses,
        evaluate=partial(evaluate, encoder=encoder),
        metric=task.metric,
        show=lambda index: fill(task.template, evaluation.rows[index]),
        notes=(f"{train.truncated_share:.1%} of the training rows are cut to {encoder.limit} tokens",),
        true_evaluation=None if true_splits is None else encoder.encode(true_splits.evaluation),
        is_differentiable=not optimizes_metric,
        writes=optimizes_metric and isinstance(task, AnswerTask),
    )
