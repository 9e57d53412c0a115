"""Reward functions over generated text, with the signature that TRL's GRPO has.

``reward(prompts, completions, completion_ids, **columns) -> list[float | None]``: lists with an entry for each row.
Prompts and completions are texts, or lists of messages where the prompts are such; ``columns`` are the rows' other
columns and ``trainer_state``. The larger a reward the better; None: the function has nothing to say of this row.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any

from transformers import TrainerState

from zoft.dotted import load_function
from zoft.errors import ConfigError, DataError, ZoftWarning

__all__ = ["RewardFunctions", "Rewarded"]


@dataclass(frozen=True)
class RewardFunctions:
    """The functions that completions are judged by.

    Attributes:
        functions: By the names that their rewards are reported under.
        weights: What each counts in the sum.
    """

    functions: Mapping[str, Callable[..., Any]]
    weights: tuple[float, ...]

    @classmethod
    def of_paths(cls, paths: Sequence[str], weights: Sequence[float] | None = None) -> RewardFunctions:
        """Load functions.

        Args:
            paths: ``package.module:function`` each, or with a dot in place of the colon, as TRL writes it.
            weights: What each counts; default: 1.

        Raises:
            ConfigError: There is no such function, it is asynchronous, or the weights are not as many.
        """
        loaded = [load_function(path, "reward_funcs") for path in paths]
        short = [path.rpartition(":" if ":" in path else ".")[2] for path in paths]
        names = [name if short.count(name) == 1 else path for name, path in zip(short, paths, strict=True)]
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ConfigError(f"reward_funcs holds {twice[0]} twice; give it once, with a weight of its own")
        for name, function in zip(names, loaded, strict=True):
            if inspect.iscoroutinefunction(function):
                raise ConfigError(f"reward function {name} is asynchronous, which is not supported; write it with def")
        weights = [1.0] * len(names) if weights is None else weights
        if len(weights) != len(names) or not all(map(math.isfinite, weights)):
            raise ConfigError(
                f"reward_weights must be one finite number for each of the {len(names)} reward functions, got "
                f"{list(weights)}"
            )
        return cls(dict(zip(names, loaded, strict=True)), tuple(weights))

    def of(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[list[int]],
        columns: Mapping[str, list[Any]],
        state: TrainerState,
    ) -> list[Rewarded]:
        """Judge completions: B prompts, B completions and their tokens, B values of each column.

        Raises:
            DataError: A function failed, or returned something else than B numbers.
        """
        of_functions = [
            _checked(name, partial(function, trainer_state=state), prompts, completions, completion_ids, columns)
            for name, function in self.functions.items()
        ]
        rewarded = [Rewarded(self._sum(row), row) for row in zip(*of_functions, strict=True)]
        for prompt, completion, one in zip(prompts, completions, rewarded, strict=True):
            if all(reward is None for reward in one.of_functions):
                warnings.warn(
                    f"no reward function has anything to say of the completion {completion!r:.80} of {prompt!r:.80}; "
                    "it counts as 0. Return None only where another function returns a number",
                    ZoftWarning,
                    stacklevel=3,
                )
                break
        return rewarded

    def _sum(self, rewards: Sequence[float | None]) -> float:
        present = zip(self.weights, rewards, strict=True)
        return math.fsum(weight * reward for weight, reward in present if reward is not None)

    def means(self, rewarded: Sequence[Rewarded]) -> dict[str, float | None]:
        """Return ``reward``, the mean of the weighted sums, and ``rewards/NAME``, that of each function's numbers."""
        means: dict[str, float | None] = {"reward": _mean([one.reward for one in rewarded])}
        for place, name in enumerate(self.functions):
            given = [reward for one in rewarded if (reward := one.of_functions[place]) is not None]
            means[f"rewards/{name}"] = _mean(given)
        return means


@dataclass(frozen=True)
class Rewarded:
    """What a completion is worth.

    Attributes:
        reward: The weighted sum of its rewards, without those that are None.
        of_functions: What each function says.
    """

    reward: float
    of_functions: tuple[float | None, ...]


def _mean(numbers: Sequence[float]) -> float | None:
    return math.fsum(numbers) / len(numbers) if numbers else None


def _checked(
    name: str,
    function: Callable[..., Any],
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[list[int]],
    columns: Mapping[str, list[Any]],
) -> list[float | None]:
    try:
        rewards = function(
            prompts=list(prompts), completions=list(completions), completion_ids=list(completion_ids), **columns
        )
    except Exception as error:  # whatever the user's function does
        raise DataError(
            f"reward function {name} failed on {len(prompts)} completions: {error!r}. It is called as "
            f"{name}(prompts, completions, completion_ids, trainer_state, {', '.join(columns)}), by name; let it take "
            "**kwargs for those that it does not need"
        ) from error
    if not isinstance(rewards, (list, tuple)) or len(rewards) != len(prompts):
        got = f"{len(rewards)} of them" if isinstance(rewards, (list, tuple)) else f"{rewards!r:.80}"
        raise DataError(f"reward function {name} must return a list of {len(prompts)} rewards, got {got}")
    for completion, reward in zip(completions, rewards, strict=True):
        if reward is not None and not (isinstance(reward, Real) and math.isfinite(reward)):
            raise DataError(
                f"reward function {name} must return finite numbers or None, got {reward!r:.80} for the completion "
                f"{completion!r:.80}"
            )
    return [None if reward is None else float(reward) for reward in rewards]
