"""``--objective`` and ``--reward_funcs``: what they train, measure and refuse."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from zoft.cli.train import main
from zoft.recipe import format_recipe, read_recipe

Train = Callable[..., Path]

FUNCTIONS = '''
STEPS = []

WORDS = {"a", "the", "film", "is", "great", "good", "fine", "lovely"}

def says_some(completions, trainer_state, **columns):
    """The share of words that are among some."""
    STEPS.append(trainer_state.global_step)
    return [sum(word in WORDS for word in one.split()) / 4 for one in completions]

def is_short(completions, **columns):
    return [-float(len(one.split())) for one in completions]

def says_some_in_a_chat(prompts, completions, **columns):
    assert all(message["role"] == "user" for prompt in prompts for message in prompt)
    return [sum(word in WORDS for word in one[0]["content"].split()) / 4 for one in completions]

def share_right(right, said):
    return sum(a == b for a, b in zip(right, said)) / len(right)
'''

REWARD = {"reward_funcs": ["functions_of_mine:says_some"], "max_completion_length": 4}


@pytest.fixture
def train(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Run the recipe, changed, in a folder with some functions; return its output folder."""
    (tmp_path / "functions_of_mine.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "functions_of_mine", raising=False)

    def run(name: str = "run", flags: tuple[str, ...] = (), **changes: Any) -> Path:
        settings = {**read_recipe(recipe), "max_steps": 2, **changes}
        if changes.get("reward_funcs"):
            settings.pop("label_words")
        path = tmp_path / "recipe_of_mine.yaml"
        path.write_text(format_recipe({key: value for key, value in settings.items() if value is not None}))
        main(["--config", str(path), "--output_dir", str(tmp_path / name), *flags])
        return tmp_path / name

    return run


def metrics(folder: Path) -> Any:
    return json.loads((folder / "metrics.json").read_text())


def weights(folder: Path) -> list[torch.Tensor]:
    return list(AutoModelForCausalLM.from_pretrained(folder).parameters())


def test_a_reward_is_learned(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    functions = ["functions_of_mine:says_some", "functions_of_mine.is_short"]
    settings = {"zo_eps": 0.2, "learning_rate": 0.1, "max_steps": 60}
    settings |= {"per_device_train_batch_size": 8, "save_model": False}
    folder = train(**REWARD | {"reward_funcs": functions, "reward_weights": [1, 0.01]}, **settings)
    scores = metrics(folder)
    assert scores["before"]["rewards/says_some"] < 0.2 and scores["after"]["rewards/says_some"] > 0.5
    after = scores["after"]
    assert after["reward"] == pytest.approx(after["rewards/says_some"] + 0.01 * after["rewards/is_short"])
    assert scores["placement"] == "snapshot"
    examples = json.loads((folder / "examples.json").read_text())
    assert any(one["after"] != one["before"] for one in examples)
    assert f"before: reward {scores['before']['reward']:.3f}" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["es", "fzoo", "grzo"])
def test_other_methods_take_rewards(method: str, train: Train) -> None:
    folder = train(**REWARD, zo_method=method, zo_num_queries=4, temperature=1.0)
    assert metrics(folder)["method"] == method


def test_a_resumed_run_draws_what_an_uninterrupted_one_does(train: Train) -> None:
    sampled = {**REWARD, "temperature": 2.0, "zo_eps": 0.3, "learning_rate": 0.01, "lr_scheduler_type": "constant"}
    whole = weights(train("whole", **sampled, max_steps=6))
    train("parts", **sampled, max_steps=3)
    parts = weights(train("parts", ("--resume",), **sampled, max_steps=6))
    assert all(map(torch.equal, whole, parts))


def test_functions_are_told_the_step(train: Train) -> None:
    train(**REWARD, max_steps=3, zo_eps=0.5)
    steps = sys.modules["functions_of_mine"].STEPS
    assert {step: steps.count(step) for step in (1, 2)} == {1: 2, 2: 2}


def test_prompts_may_be_the_rows_own_texts_or_chats(train: Train, base: str, tmp_path: Path) -> None:
    rows = [f"the film was {word}" for word in ("great", "good", "bad", "poor", "dull", "fine")]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))
    files = {"template": None, "dataset": None, "train_file": "texts.jsonl"}
    assert "reward" in metrics(train("texts", **REWARD, **files, zo_eps=0.5))["after"]

    chats = [{"prompt": [{"role": "user", "content": row}]} for row in rows]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats))
    settings = {**REWARD, "zo_eps": 0.5, "reward_funcs": ["functions_of_mine:says_some_in_a_chat"]}
    files["train_file"] = "chats.jsonl"
    with pytest.raises(SystemExit):
        train("chats", **settings, **files)  # the tokenizer has no chat template
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    tokenizer.save_pretrained(tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(tmp_path / "model")
    folder = train("chats", **settings, **files, model_name_or_path=str(tmp_path / "model"))
    assert "rewards/says_some_in_a_chat" in metrics(folder)["after"]
    assert json.loads((folder / "examples.json").read_text())[0]["prompt"].startswith("user: the film was")


@pytest.mark.parametrize(
    "objective", ["accuracy", "macro_f1", "sklearn.metrics:accuracy_score", "functions_of_mine:share_right"]
)
def test_a_metric_is_trained_and_told(objective: str, train: Train) -> None:
    scores = metrics(train(objective=objective, zo_eps=1.0, gradient_accumulation_steps=2))
    assert 0.0 <= scores["after"][objective] <= 1.0


def test_private_runs_take_metrics_of_single_examples(train: Train) -> None:
    private = {"dp_noise_multiplier": 1.0, "dp_target_delta": 1e-5, "dp_eval_is_public": True}
    assert metrics(train(objective="accuracy", zo_eps=1.0, **private))["charged"] == 2


DP = {"dp_noise_multiplier": 1.0, "dp_target_delta": 1e-5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "acuracy"}, "there is no metric 'acuracy'. Did you mean 'accuracy'?"),
        ({"objective": "accuracy", "zo_method": "adamw"}, "this objective has no gradient, and zo_method adamw"),
        ({"objective": "accuracy", "zo_method": "forward_grad"}, "forward_grad differentiates the loss"),
        ({"objective": "macro_f1", "zo_method": "grzo"}, "the objective is one number for the whole batch"),
        ({"objective": "macro_f1", **DP}, "macro_f1 is a number of a whole batch"),
        ({**REWARD, **DP}, "a reward function may remember other rows"),
        ({**REWARD, "objective": "accuracy"}, "reward_funcs are an objective; leave one out"),
        ({**REWARD, "shuffle_labels": True}, "shuffle_labels is for tasks that say what is right"),
        ({**REWARD, "labels": ["0", "1"]}, "label_words and labels say what is right"),
        ({**REWARD, "temperature": -1.0}, "temperature must be a number >= 0"),
        ({**REWARD, "max_completion_length": 5000}, "leaves no room for a prompt"),
        ({**REWARD, "template": "{text} [MASK]"}, "[MASK] is for models that fill a gap"),
        ({"temperature": 1.0}, "temperature is for rewards"),
        ({"reward_weights": [1.0]}, "reward_weights is for rewards"),
    ],
)
def test_what_does_not_go_together_is_refused(
    changes: dict[str, Any], message: str, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        train(**changes)
    assert caught.value.code == 2 and message in capsys.readouterr().err
