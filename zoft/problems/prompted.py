"""Problems of a language model that is prompted, and chooses or writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from zoft.evaluation.answers import evaluate_answers
from zoft.evaluation.metrics import metric
from zoft.evaluation.options import evaluate_options
from zoft.problems.objectives.scores import score_losses
from zoft.problems.problem import Losses, Problem
from zoft.tasks.answers import AnswerTask
from zoft.tasks.data import Splits
from zoft.tasks.encoding import EncodedPrompts, PromptEncoder
from zoft.tasks.hygiene import DataReport, SplitName, TokenLengths, inspect_data
from zoft.tasks.scoring import answer_losses, option_losses
from zoft.tasks.task import Task
from zoft.tasks.template import fill

__all__ = ["PromptedProblem", "inspected", "prompted_problem"]


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


def prompted_problem(
    encoder: PromptEncoder,
    splits: Splits,
    true_splits: Splits | None = None,
    *,
    inspect: bool = True,
    optimizes_metric: bool = False,
) -> PromptedProblem:
    """Encode rows, and say how they are trained on and measured.

    Args:
        encoder: The task, made ready for a model.
        splits: The rows.
        true_splits: In a control run: the rows with their true labels.
        inspect: Look for what is wrong with the rows; not to be done with private ones.
        optimizes_metric: Train on the task's metric itself, in place of the cross-entropy.
    """
    task = encoder.task
    # A metric looks at all options, a cross-entropy of the answer at that alone.
    train = encoder.encode(splits.train, training=not optimizes_metric)
    evaluation = encoder.encode(splits.evaluation)
    dev = encoder.encode(splits.dev) if splits.dev else None
    evaluate = evaluate_answers if isinstance(task, AnswerTask) else evaluate_options
    losses: Losses = answer_losses if task.trains_on == "answer" else option_losses
    return PromptedProblem(
        encoder=encoder,
        train=train,
        dev=dev,
        evaluation=evaluation,
        collator=encoder.collator(),
        losses=score_losses(encoder, train, metric(task.metric)) if optimizes_metric else losses,
        evaluate=partial(evaluate, encoder=encoder),
        metric=task.metric,
        show=lambda index: fill(task.template, evaluation.rows[index]),
        data=inspected(task, true_splits or splits, train, dev, evaluation) if inspect else None,
        true_evaluation=None if true_splits is None else encoder.encode(true_splits.evaluation),
        is_differentiable=not optimizes_metric,
        writes=optimizes_metric and isinstance(task, AnswerTask),
    )


def inspected(
    task: Task, splits: Splits, train: EncodedPrompts, dev: EncodedPrompts | None, evaluation: EncodedPrompts
) -> DataReport:
    """Look for what is wrong with a task's rows; see `zoft.tasks.hygiene`."""
    columns = task.columns
    encoded: dict[SplitName, EncodedPrompts | None] = {"train": train, "dev": dev, "evaluation": evaluation}
    return inspect_data(
        {"train": splits.train, "dev": splits.dev, "evaluation": splits.evaluation},
        lambda row: [str(row[name]) for name in columns.text],
        columns.class_of,
        labels=columns.labels,
        left_out=splits.left_out,
        tokens={
            name: TokenLengths(prompts.lengths, [len(example["input_ids"]) for example in prompts.examples])
            for name, prompts in encoded.items()
            if prompts is not None
        },
    )
