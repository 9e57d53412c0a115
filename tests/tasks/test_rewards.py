"""Rewards: TRL's signature, completions that a plain loop would write, and random numbers in common."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerState

import zoft
from tests.tasks.placed import placed
from zoft.errors import ConfigError, DataError, ZoftWarning
from zoft.evaluation.rewards import RewardFunctions
from zoft.evaluation.sampling import SharedNoise, gumbel
from zoft.problems.problem import Problem
from zoft.problems.rewarded import rewarded_problem
from zoft.tasks.data import Splits
from zoft.tasks.encoding import PromptEncoder
from zoft.tasks.prompts import ChatPromptEncoder, ChatPrompts, PromptTask

ROWS = [{"text": text, "label": place} for place, text in enumerate(["a film", "great", "from start to end", "it"])]
TASK = PromptTask("{text} It was")
LENGTH = 6
EACH = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
CHAT_TEMPLATE = EACH + "{% if add_generation_prompt %}assistant:{% endif %}"


class Recorder:
    """A reward function that keeps what it was given."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, **given: Any) -> list[float]:
        """Reward by length."""
        self.calls.append(given)
        return [float(len(ids)) for ids in given["completion_ids"]]


def functions(*given: Any, weights: tuple[float, ...] | None = None) -> RewardFunctions:
    return RewardFunctions({f"f{place}": f for place, f in enumerate(given)}, weights or (1.0,) * len(given))


def problem_of(tokenizer: Any, rewards: RewardFunctions, rows: Any = ROWS, **settings: Any) -> Problem:
    encoder = PromptEncoder(TASK, tokenizer)
    return rewarded_problem(
        encoder, Splits(placed(rows), placed(rows)), rewards, max_completion_length=LENGTH, **settings
    )


def batch_of(problem: Problem, places: list[int] | None = None) -> Any:
    return problem.collator([problem.train[place] for place in places or range(len(problem.train))])


def written(model: Any, tokenizer: Any, prompt: str, noise: Any = None, length: int = LENGTH) -> list[int]:
    """One token after the other, each from a forward pass over everything before it."""
    ids, new = tokenizer(prompt)["input_ids"], []
    while len(new) < length and (not new or new[-1] != tokenizer.eos_token_id):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids + new])).logits[0, -1]
        new.append(int((logits if noise is None else noise(len(new), logits)).argmax()))
    return new


# --- what functions are given, and what is made of what they return ------------------------------------------


def test_functions_are_called_as_trl_calls_them(
    causal_model: PreTrainedModel, causal_tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = [{**row, "prompt": "hidden", "only_here": 1} if row["label"] == 2 else row for row in ROWS]
    recorder = Recorder()
    problem = problem_of(causal_tokenizer, functions(recorder), rows)
    (state,) = problem.callbacks
    state.on_train_begin(None, TrainerState(global_step=7), None)
    losses = problem.losses(causal_model, batch_of(problem, [2, 0]))
    (call,) = recorder.calls
    assert set(call) == {"prompts", "completions", "completion_ids", "text", "label", "only_here", "trainer_state"}
    assert call["prompts"] == ["from start to end It was", "a film It was"]
    assert (call["label"], call["only_here"]) == ([2, 0], [1, None])
    assert call["trainer_state"].global_step == 7
    want = [written(causal_model, causal_tokenizer, prompt) for prompt in call["prompts"]]
    assert call["completion_ids"] == want
    assert call["completions"] == [causal_tokenizer.decode(ids, skip_special_tokens=True) for ids in want]
    assert losses.tolist() == [-float(len(ids)) for ids in want]


def test_chats_are_given_and_returned_as_messages(
    llama: PreTrainedModel, causal_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal_tokenizer, "chat_template", CHAT_TEMPLATE)
    user, start = {"role": "user", "content": "a film"}, {"role": "assistant", "content": "It was"}
    rows = [{"prompt": [user], "answer": "great"}, {"prompt": [user, start], "answer": "great"}]
    recorder = Recorder()
    encoder = ChatPromptEncoder(ChatPrompts(causal_tokenizer), causal_tokenizer)
    problem = rewarded_problem(
        encoder, Splits(placed(rows), placed(rows)), functions(recorder), max_completion_length=LENGTH
    )
    problem.losses(llama, batch_of(problem))
    (call,) = recorder.calls
    assert call["prompts"] == [row["prompt"] for row in rows] and "prompt" not in call
    assert call["answer"] == ["great", "great"]
    wants = [
        written(llama, causal_tokenizer, "user: a film\nassistant:"),
        written(llama, causal_tokenizer, "user: a film\nassistant: It was"),
    ]
    assert call["completion_ids"] == wants
    texts = [causal_tokenizer.decode(ids, skip_special_tokens=True) for ids in wants]
    assert call["completions"] == [[{"role": "assistant", "content": text}] for text in texts]


def test_a_reward_function_of_trl_serves() -> None:
    pytest.importorskip("trl")
    rewards = RewardFunctions.of_paths(["trl.rewards.think_format_reward"])
    texts = ["<think>\nbecause\n</think>\nso", "so"]
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    got = rewards.of([[]] * 2, completions, [[], []], {}, TrainerState())
    assert [one.reward for one in got] == [1.0, 0.0]


def test_the_reward_is_the_weighted_sum_and_none_says_nothing() -> None:
    def some(completions: list[str], **_: Any) -> list[float | None]:
        return [None if text == "a" else 4.0 for text in completions]

    rewards = functions(lambda **_: [1, np.float32(0.5)], some, weights=(2.0, -0.25))
    got = rewards.of(["p", "p"], ["a", "b"], [[], []], {}, TrainerState())
    assert [one.reward for one in got] == [2.0, 0.0]
    assert rewards.means(got) == {"reward": 1.0, "rewards/f0": 0.75, "rewards/f1": 4.0}


def test_a_row_of_which_nothing_is_said_is_told() -> None:
    with pytest.warns(ZoftWarning, match="no reward function has anything to say of the completion 'a'"):
        got = functions(lambda **_: [None]).of(["p"], ["a"], [[]], {}, TrainerState())
    assert got[0].reward == 0.0


def fails(**_: Any) -> Any:
    raise KeyError("answer")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (fails, r"reward function f0 failed on 2 completions: KeyError\('answer'\)"),
        (lambda prompts, completions: [1.0, 1.0], "reward function f0 failed .* let it take \\*\\*kwargs"),
        (lambda **_: [1.0], "reward function f0 must return a list of 2 rewards, got 1 of them"),
        (lambda **_: 1.0, "must return a list of 2 rewards, got 1.0"),
        (lambda **_: np.ones(2), "must return a list of 2 rewards, got array"),
        (lambda **_: [1.0, math.nan], "must return finite numbers or None, got nan for the completion 'b'"),
        (lambda **_: [1.0, "1.0"], "must return finite numbers or None, got '1.0' for the completion 'b'"),
    ],
)
def test_what_a_function_may_not_do_is_said_with_its_name(function: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        functions(function).of(["p", "p"], ["a", "b"], [[], []], {}, TrainerState())


async def waiting(**_: Any) -> list[float]:
    return [1.0]


@pytest.mark.parametrize(
    ("paths", "weights", "message"),
    [
        (["no_such_package.rewards.one"], None, "reward_funcs: there is no module 'no_such_package'"),
        (["zoft.errors:no_such"], None, "reward_funcs: the module 'zoft.errors' has no 'no_such'"),
        (["math.sqrt", "math:sqrt"], None, "math.sqrt|math:sqrt"),
        (["math:sqrt", "math:sqrt"], None, "twice"),
        (["math:sqrt"], [1.0, 2.0], "reward_weights must be one finite number for each of the 1"),
        (["math:sqrt"], [math.nan], "reward_weights must be one finite number"),
        ([f"{__name__}:waiting"], None, "reward function waiting is asynchronous"),
    ],
)
def test_functions_that_cannot_be_used_are_refused(
    paths: list[str], weights: list[float] | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or __import__(__name__))
    if paths == ["math.sqrt", "math:sqrt"]:  # two spellings are two names
        assert set(RewardFunctions.of_paths(paths).functions) == set(paths)
        return
    with pytest.raises(ConfigError, match=message):
        RewardFunctions.of_paths(paths, weights)


def test_columns_that_functions_know_as_something_else_are_refused(causal_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="column 'completions'"):
        problem_of(causal_tokenizer, functions(Recorder()), [{**ROWS[0], "completions": 1}])


def test_measured_are_the_likeliest_completions(
    llama: PreTrainedModel, causal_tokenizer: PreTrainedTokenizerFast
) -> None:
    problem = problem_of(causal_tokenizer, functions(Recorder()), temperature=1.0)
    results = [problem.evaluate(llama, problem.evaluation, batch_size=size) for size in (1, 3)]
    ids = [written(llama, causal_tokenizer, f"{row['text']} It was") for row in ROWS]
    mean = sum(map(len, ids)) / len(ids)
    for result in results:
        assert result.scores == pytest.approx(
            {"reward": mean, "rewards/f0": mean, "completion_length": mean, "loss": -mean, "n": 4}
        )
        texts = [causal_tokenizer.decode(one, skip_special_tokens=True) for one in ids]
        assert [one.predicted for one in result.predictions] == texts


# --- common random numbers -----------------------------------------------------------------------------------


def test_a_sample_is_the_likeliest_token_after_the_rows_own_noise(
    causal_model: PreTrainedModel, causal_tokenizer: PreTrainedTokenizerFast
) -> None:
    recorder = Recorder()
    problem = problem_of(causal_tokenizer, functions(recorder), temperature=1.5, seed=3)
    for places in ([0, 1, 2, 3], [3, 1]):  # a completion does not depend on its neighbours
        recorder.calls.clear()
        problem.losses(causal_model, batch_of(problem, places))
        for place, got in zip(places, recorder.calls[0]["completion_ids"], strict=True):

            def noise(token: int, logits: torch.Tensor, place: int = place) -> torch.Tensor:
                return logits / 1.5 + gumbel(f"3/0/{place}/{token}", len(logits), logits.device)

            assert got == written(causal_model, causal_tokenizer, f"{ROWS[place]['text']} It was", noise)


def test_samples_are_distributed_as_the_softmax() -> None:
    scores, temperature, count = torch.tensor([[1.0, 0.0, -0.5, 2.0, -math.inf]]), 0.7, 6000
    drawn = Counter(
        int(SharedNoise(temperature, f"key {number}", [0])(torch.zeros(1, 1), scores).argmax())
        for number in range(count)
    )
    expected = (scores[0] / temperature).softmax(0) * count
    assert drawn[4] == 0
    chi_square = sum((drawn[token] - expected[token].item()) ** 2 / expected[token].item() for token in range(4))
    assert chi_square < 32.0  # of three degrees of freedom: exceeded by chance with probability 5e-7


def sampled(model: Any, problem: Problem, recorder: Recorder) -> list[list[int]]:
    recorder.calls.clear()
    problem.losses(model, batch_of(problem))
    ids: list[list[int]] = recorder.calls[0]["completion_ids"]
    return ids


def test_random_numbers_are_shared_within_a_step_and_fresh_in_the_next(
    llama: PreTrainedModel, causal_tokenizer: PreTrainedTokenizerFast
) -> None:
    recorder = Recorder()
    problem = problem_of(causal_tokenizer, functions(recorder), temperature=3.0)
    (run,) = problem.callbacks
    state = TrainerState()
    run.on_train_begin(None, state, None)
    first = sampled(llama, problem, recorder)
    assert sampled(llama, problem, recorder) == first
    state.global_step = 1
    assert sampled(llama, problem, recorder) != first
    state.global_step = 0
    assert sampled(llama, problem, recorder) == first
    other = problem_of(causal_tokenizer, functions(recorder), temperature=3.0, seed=1)
    assert sampled(llama, other, recorder) != first


@pytest.mark.parametrize("temperature", [0.0, 2.0])
@pytest.mark.parametrize("placement", ["stream", "snapshot"])
def test_both_signs_write_the_same_as_zo_eps_vanishes(
    placement: str, temperature: float, llama: PreTrainedModel, causal_tokenizer: PreTrainedTokenizerFast
) -> None:
    recorder = Recorder()
    problem = problem_of(causal_tokenizer, functions(recorder), temperature=temperature)
    written_at: dict[float, list[list[list[int]]]] = {}
    batch = batch_of(problem)
    for eps in (1e-7, 0.5):
        config = zoft.ZOConfig(method="mezo", zo_eps=eps, placement=placement, num_queries=2)
        engine = zoft.ZOOptimizer(llama, lr=0.0, config=config).engine
        before = [weight.clone() for weight in llama.parameters()]
        random_states = (torch.get_rng_state(), np.random.get_state(), random.getstate())
        recorder.calls.clear()
        engine.estimate(lambda: problem.losses(llama, batch).mean())
        assert torch.equal(torch.get_rng_state(), random_states[0])
        assert str(np.random.get_state()) == str(random_states[1]) and random.getstate() == random_states[2]
        assert all(map(torch.equal, before, llama.parameters()))
        written_at[eps] = [call["completion_ids"] for call in recorder.calls[-4:]]
    assert all(ids == written_at[1e-7][0] for ids in written_at[1e-7])
    assert any(ids != written_at[0.5][0] for ids in written_at[0.5])


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_what_is_written_at_streamed_weights_is_what_moved_weights_write(
    temperature: float, llama: PreTrainedModel, causal_tokenizer: PreTrainedTokenizerFast
) -> None:
    """So the cache of keys and values holds those of the perturbed weights alone."""
    recorder = Recorder()
    problem = problem_of(causal_tokenizer, functions(recorder), temperature=temperature)
    batch, calls = batch_of(problem), []
    for placement in ("stream", "snapshot"):
        config = zoft.ZOConfig(method="mezo", zo_eps=0.3, placement=placement)
        engine = zoft.ZOOptimizer(llama, lr=0.0, config=config).engine
        recorder.calls.clear()
        engine.estimate(lambda: problem.losses(llama, batch).mean())
        calls.append([call["completion_ids"] for call in recorder.calls[-2:]])
    assert calls[0] == calls[1] and calls[0][0] != calls[0][1]
