"""Problems of a language model that writes, and is rewarded for what it wrote."""

from __future__ import annotations

from functools import partial

from zoft.evaluation.judging import Judge, evaluate_rewards
from zoft.evaluation.rewards import RewardFunctions
from zoft.problems.objectives.rewards import RunState, reward_losses
from zoft.problems.problem import Problem
from zoft.problems.prompted import inspected
from zoft.tasks.conversations import transcript
from zoft.tasks.data import Splits
from zoft.tasks.encoding import PromptEncoder
from zoft.tasks.prompts import prompt_of

__all__ = ["rewarded_problem"]


def rewarded_problem(
    encoder: PromptEncoder,
    splits: Splits,
    rewards: RewardFunctions,
    *,
    max_completion_length: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> Problem:
    """Encode prompts, and say how completions are trained for and measured.

    Args:
        encoder: The prompts' task, made ready for a model.
        splits: The rows.
        rewards: What completions are judged by.
        max_completion_length: The longest completion, in tokens.
        temperature: In training; see `reward_losses`. Measured are the likeliest completions.
        seed: Decides the random numbers of samples.

    Raises:
        DataError: A column has a name that reward functions know as something else.
    """
    train, evaluation, run = encoder.encode(splits.train), encoder.encode(splits.evaluation), RunState()
    dev = encoder.encode(splits.dev) if splits.dev else None
    judge = Judge(encoder, train, rewards, max_completion_length)
    return Problem(
        train=train,
        dev=dev,
        evaluation=evaluation,
        collator=encoder.collator(),
        losses=reward_losses(judge, run, temperature=temperature, seed=seed),
        evaluate=partial(
            evaluate_rewards, encoder=encoder, rewards=rewards, max_completion_length=max_completion_length
        ),
        metric=encoder.task.metric,
        show=lambda index: transcript(prompt_of(encoder.task, evaluation.rows[index])),
        data=inspected(encoder.task, splits, train, dev, evaluation),
        is_differentiable=False,
        writes=True,
        callbacks=(run,),
    )
