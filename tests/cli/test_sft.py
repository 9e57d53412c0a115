"""``zoft-train --task sft`` end to end: what it learns, writes, replays, and refuses."""

from __future__ import annotations

import json
import random
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, BertConfig, T5Config

from tests.cli.runs import BAD, GOOD, NEUTRAL
from tests.cli.test_processes import finish, launch
from zoft.cli.replay import main as replay
from zoft.cli.train import main

# Every message ends with the end-of-text token, so that a model that has learned to answer stops.
TEMPLATE = "{% for message in messages %}{{ message['content'] }} <eos> {% endfor %}"
MARKED = "{% for message in messages %}{% generation %}{{ message['content'] }} <eos> {% endgeneration %}{% endfor %}"
DATA = Path(__file__).parents[2] / "recipes" / "data" / "short_answers.jsonl"


def chats(count: int = 40) -> list[dict[str, Any]]:
    """Rows whose answers all are "it was great"."""
    rng = random.Random(0)
    return [
        {
            "prompt": [
                {"role": "user", "content": " ".join(rng.choices([*NEUTRAL, *GOOD, *BAD], k=rng.randint(3, 7)))}
            ],
            "completion": [{"role": "assistant", "content": "it was great"}],
        }
        for _ in range(count)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def sft(base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, for a tiny model whose tokenizer has a chat template."""
    folder = tmp_path_factory.mktemp("sft")
    shutil.copytree(base, folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "model")
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"""\
model_name_or_path: {folder}/model
task: sft
dataset: {write(folder / "rows.jsonl", chats())}
eval_fraction: 0.2
max_new_tokens: 4
zo_eps: 1e-2
learning_rate: 1e-2
per_device_train_batch_size: 4
train_sampling_strategy: group_by_length
max_steps: 12
save_strategy: no
use_cpu: true
report_to: none
disable_tqdm: true
""",
        encoding="utf-8",
    )
    return recipe


@pytest.fixture
def train(sft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TQDM_DISABLE", "1")

    def run(*flags: str) -> Path:
        main(["--config", str(sft), "--output_dir", str(tmp_path / "run"), *flags])
        return tmp_path / "run"

    return run


@pytest.fixture
def refused(train: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*flags: str) -> str:
        with pytest.raises(SystemExit) as caught:
            train(*flags)
        assert caught.value.code == 2
        return capsys.readouterr().err

    return run


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


# --- what it does --------------------------------------------------------------------------------------


def test_a_model_learns_to_answer_and_stop_and_its_answers_are_shown(
    train: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train("--zo_method", "adamw", "--max_steps", "60", "--lr_scheduler_type", "constant")
    said = capsys.readouterr().out
    assert "format conversational prompt-completion\n  0.0% of the training rows are cut to 512 tokens" in said
    assert "before: token accuracy" in said
    scores = read(folder, "metrics.json")
    assert scores["after"]["loss"] < 0.1 * scores["before"]["loss"]
    examples = read(folder, "examples.json")
    assert len(examples) == 8
    assert all(one["expected"] == "it was great" and one["prompt"].startswith("user: ") for one in examples)
    assert {one["after"] for one in examples} == {"it was great"}
    assert AutoTokenizer.from_pretrained(folder).chat_template == TEMPLATE


def test_forward_passes_lower_the_loss(train: Any) -> None:
    scores = read(train("--zo_num_queries", "4"), "metrics.json")
    assert scores["after"]["loss"] < scores["before"]["loss"] and scores["after"]["n"] == 8


def test_an_adapters_run_is_replayed_bit_for_bit(train: Any) -> None:
    folder = train("--use_peft", "--lora_r", "2", "--max_steps", "4")
    replay(["--config", str(folder / "resolved_config.yaml"), "--verify", str(folder)])


def test_a_private_run_protects_each_conversation_and_tells_nothing_of_them(
    train: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dp_noise_multiplier", "1", "--dp_target_delta", "1e-5", "--dp_accountant", "rdp", "--max_steps", "3"]
    folder = train(*flags, "--train_sampling_strategy", "random")
    output = capsys.readouterr().out
    assert "privacy: " in output and "cut to" not in output
    assert read(folder, "metrics.json")["steps"] == 3


@pytest.mark.parametrize("method", ["grzo", "adamw"])
def test_other_ways_of_training_take_the_same_losses(method: str, train: Any) -> None:
    """A direction for each example (its proof compares two examples' losses), and gradients."""
    folder = train("--zo_method", method, "--max_steps", "3")
    assert read(folder, "metrics.json")["method"] == method


def test_a_given_template_is_used_and_saved_and_may_mark_assistants(train: Any, tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text(MARKED, encoding="utf-8")
    plain = read(train(), "metrics.json")["before"]["tokens"]
    folder = train("--chat_template_path", str(template), "--assistant_only_loss")
    assert AutoTokenizer.from_pretrained(folder).chat_template == MARKED
    assert read(folder, "metrics.json")["before"]["tokens"] == plain, "of completions, which assistants say, all"


@pytest.mark.slow
def test_two_processes_measure_and_write_what_one_does(train: Any, sft: Path, tmp_path: Path) -> None:
    alone = train()
    finish(launch("torchrun", sft, tmp_path / "two", "--per_device_train_batch_size", "2"))
    metrics = [read(folder, "metrics.json") for folder in (alone, tmp_path / "two")]
    assert metrics[1]["processes"] == 2
    one, two = (dict(some["before"]) for some in metrics)
    assert two.pop("token_accuracy_ci") == pytest.approx(one.pop("token_accuracy_ci"))
    assert two == pytest.approx(one, rel=1e-6)
    shown = [[one["before"] for one in read(folder, "examples.json")] for folder in (alone, tmp_path / "two")]
    assert shown[0] == shown[1]


# --- what it refuses -----------------------------------------------------------------------------------


def test_models_that_do_not_write_on_are_refused_before_they_are_loaded(refused: Any, tmp_path: Path) -> None:
    BertConfig(architectures=["BertForMaskedLM"]).save_pretrained(tmp_path / "bert")
    T5Config().save_pretrained(tmp_path / "t5")
    assert "is a masked language model" in refused("--model_name_or_path", str(tmp_path / "bert"))
    assert "has an encoder and a decoder" in refused("--model_name_or_path", str(tmp_path / "t5"))


def test_a_model_without_a_chat_template_is_told_how_to_get_one(refused: Any, base: str) -> None:
    assert "Give one with --chat_template_path FILE.jinja" in refused("--model_name_or_path", base)


def test_damaged_and_mixed_rows_are_named(refused: Any, tmp_path: Path) -> None:
    rows = [*chats(3), {"prompt": "a film", "completion": "great"}]
    file = str(write(tmp_path / "mixed.jsonl", rows))
    assert "mixed.jsonl: line 4: the row has the format prompt-completion, and the rows" in refused("--dataset", file)
    rows[1] = {"messages": [{"role": "user"}]}
    file = str(write(tmp_path / "damaged.jsonl", rows))
    assert "line 2: column 'messages', message 1 (user) needs a text as its content" in refused("--dataset", file)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--template", "{text} is"], "template is for tasks with a template"),
        (["--shuffle_labels"], "shuffle_labels is for tasks with a template"),
        (["--num_shots", "4"], "num_shots is for tasks with a template"),
        (["--max_new_tokens", "-1"], "max_new_tokens must be at least 0, got -1"),
        (["--chat_template_path", "chat.txt"], "expected a file ending in .jinja or .j2, got 'chat.txt'"),
        (["--chat_template_path", "none.jinja"], "'none.jinja' cannot be read: No such file"),
        (["--assistant_only_loss"], "needs a chat template that marks what assistants say"),
        (["--task", "sst2", "--assistant_only_loss"], "assistant_only_loss is for task sft, and the task is 'sst2'"),
    ],
)
def test_settings_that_cannot_be_are_refused(flags: list[str], problem: str, refused: Any) -> None:
    assert problem in refused(*flags)


# --- the recipe's rows ---------------------------------------------------------------------------------


def test_the_recipes_rows_are_those_of_their_script() -> None:
    script = runpy.run_path(str(DATA.parents[2] / "scripts" / "make_short_answers.py"))
    assert DATA.read_text(encoding="utf-8") == script["text"]()
