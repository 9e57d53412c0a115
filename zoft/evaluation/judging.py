"""A model writes, and reward functions judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, TrainerState

from zoft.errors import DataError
from zoft.evaluation.batches import over_batches
from zoft.evaluation.predictions import Evaluation, Prediction
from zoft.evaluation.rewards import Rewarded, RewardFunctions
from zoft.evaluation.writing import Completion, write_completions
from zoft.tasks.encoding import EncodedPrompts, PromptEncoder
from zoft.tasks.prompts import ChatPrompts, prompt_of

__all__ = ["Judge", "evaluate_rewards"]

_HIDDEN = ("prompt", "completion", "completion_ids")  # columns that TRL does not hand on
_TAKEN = ("prompts", "completions", "trainer_state")  # what functions are handed besides columns


class Judge:
    """Lets a model write after encoded prompts, and functions judge what it wrote.

    Args:
        encoder: The prompts' task, made ready for the model.
        dataset: What ``encoder`` made of the rows.
        rewards: The functions.
        max_completion_length: The longest completion, in tokens.

    Raises:
        DataError: A column has a name that reward functions know as something else.
    """

    def __init__(
        self, encoder: PromptEncoder, dataset: EncodedPrompts, rewards: RewardFunctions, max_completion_length: int
    ) -> None:
        self._encoder, self._dataset, self._rewards = encoder, dataset, rewards
        self._max_completion_length = max_completion_length
        names = dict.fromkeys(name for row in dataset.rows for name in row)
        if taken := [name for name in names if name in _TAKEN]:
            raise DataError(
                f"the data has a column {taken[0]!r}, which is what reward functions are handed something else as; "
                "rename it"
            )
        self._columns = [name for name in names if name not in _HIDDEN]

    def __call__(
        self,
        model: nn.Module,
        places: Sequence[int],
        device: torch.device,
        *,
        state: TrainerState | None = None,
        processors: Sequence[LogitsProcessor] = (),
    ) -> list[tuple[Completion, Rewarded]]:
        """Return what a model writes after each of B prompts, and what that is worth.

        Args:
            model: A model that can ``generate``.
            places: The prompts' places in the data set.
            device: Where the model's inputs go.
            state: The Trainer's state, which functions are handed.
            processors: See `zoft.evaluation.writing.write_tokens`.

        Raises:
            DataError: A function failed, or returned something else than B numbers.
        """
        batch = self._encoder.collator().prompts([self._dataset[place]["input_ids"] for place in places])
        written = write_completions(
            model,
            self._encoder.tokenizer,
            {name: tensor.to(device) for name, tensor in batch.items()},
            max_new_tokens=self._max_completion_length,
            processors=processors,
        )
        rows = [self._dataset.rows[place] for place in places]
        rewarded = self._rewards.of(
            [prompt_of(self._encoder.task, row) for row in rows],
            [self._completion(one) for one in written],
            [one.ids for one in written],
            {name: [row.get(name) for row in rows] for name in self._columns},
            TrainerState() if state is None else state,
        )
        return list(zip(written, rewarded, strict=True))

    def _completion(self, written: Completion) -> Any:
        is_chat = isinstance(self._encoder.task, ChatPrompts)
        return [{"role": "assistant", "content": written.text}] if is_chat else written.text


def evaluate_rewards(
    model: nn.Module,
    dataset: EncodedPrompts,
    encoder: PromptEncoder,
    rewards: RewardFunctions,
    *,
    max_completion_length: int,
    batch_size: int = 32,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Let a model write after every prompt, greedily; see `zoft.evaluation.batches.over_batches`.

    The scores are ``reward`` (the mean of the weighted sums), ``rewards/NAME`` for each function (the mean of its
    numbers; None, if it returned none), ``completion_length`` (mean, in tokens), ``loss`` (minus the reward) and ``n``.

    Args:
        model: A model that can ``generate``.
        dataset: What ``encoder`` made of the rows.
        encoder: The prompts' task, made ready for the model.
        rewards: The functions.
        max_completion_length: The longest completion, in tokens.
        batch_size: Examples in a batch.
        device: Where the batches go; default: where the model's first parameter lies.

    Raises:
        DataError: The data set is empty, or a function failed.
    """
    judge = Judge(encoder, dataset, rewards, max_completion_length)

    def of_batch(model: nn.Module, batch: dict[str, Tensor]) -> list[tuple[Completion, Rewarded]]:
        return judge(model, batch["row"].tolist(), batch["row"].device)

    found = over_batches(
        model, dataset, encoder.collator(), of_batch, batch_size=batch_size, device=device, title="writing"
    )
    means = rewards.means([rewarded for _, rewarded in found])
    reward = means["reward"]
    assert reward is not None  # there is at least one completion
    predictions = [
        Prediction(expected=(), predicted=one.text, loss=-rewarded.reward, score=rewarded.reward)
        for one, rewarded in found
    ]
    length = sum(len(one.ids) for one, _ in found) / len(found)
    return Evaluation({**means, "completion_length": length, "loss": -reward, "n": len(found)}, predictions)
