"""The model card: its metadata are the Hub's, its figures the run's, and what it says about rebuilding works."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, ModelCardData

from tests.core.conftest import make
from tests.hf.conftest import arguments, rows
from tests.privacy.training import private_trainer
from zoft import ZOConfig, ZOTrainer
from zoft.cli.replay import main as replay
from zoft.cli.train import main as train
from zoft.hf.model_card import CardFacts


def card_of(folder: Path) -> ModelCard:
    card = ModelCard.load(folder / "README.md")
    assert ModelCardData(**card.data.to_dict()).to_dict() == card.data.to_dict(), "metadata that the Hub reads back"
    return card


def trainer(folder: Path, **changes: Any) -> ZOTrainer:
    model, _ = make("llama")
    return ZOTrainer(
        model=model,
        args=arguments(folder, **{"max_steps": 4, **changes}),
        zo=ZOConfig(method="mezo", zo_eps=1e-2, num_queries=3),
        train_dataset=rows(8),
        eval_dataset=rows(8),
    )


def test_the_card_of_a_run_says_what_was_done_and_what_came_of_it(finished: Path) -> None:
    card, metrics = card_of(finished), json.loads((finished / "metrics.json").read_text())
    assert card.data.library_name == "transformers" and {"zoft", "zeroth-order"} <= set(card.data.tags)
    text = card.text
    assert "Fine-tuned from model, trained on rows.jsonl by forward passes alone" in text
    assert str(finished.parent) not in text, "folders of this machine are nobody's business"
    before, after = (metrics[when]["accuracy"] for when in ("before", "after"))
    assert f"| accuracy | {before:.4g} | {after:.4g} |" in text
    assert f"| budget | {metrics['forwards']:,} forwards, no backward pass |" in text
    assert "| method | mezo, 2 queries a step, gaussian directions of seed 42 |" in text and "| steps | 40 |" in text
    assert hashlib.sha256((finished / "zo_log").read_bytes()).hexdigest() in text
    assert "| torch | 2." in text and "| device | cpu |" in text


@pytest.mark.parametrize("adapter", [[], ["--use_peft", "--lora_r", "2"]], ids=["full", "lora"])
def test_the_command_in_a_card_rebuilds_the_model(
    adapter: list[str], recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    train(["--config", recipe, "--output_dir", str(folder), "--max_steps", "3", *adapter])
    card = card_of(folder)
    assert card.data.library_name == ("peft" if adapter else "transformers")
    assert ("An adapter for model" in card.text) == bool(adapter)
    (command,) = re.findall(r"```sh\n(.*)\n```", card.text)
    monkeypatch.chdir(folder)
    replay(shlex.split(command)[1:])
    (weights,) = (path.name for path in folder.glob("*.safetensors"))
    assert (folder / "replayed" / weights).read_bytes() == (folder / weights).read_bytes()


def test_what_the_hub_knows_is_in_the_metadata(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.zo_card = CardFacts("org/base", "org/data", "text-classification", {"after": {"accuracy": 0.75, "n": 8}})
    run.train()
    run.create_model_card(license="mit", language="en", tags="mine", model_name="tuned", tasks=["text-generation"])
    data = card_of(tmp_path).data
    assert (data.base_model, data.datasets, data.license, data.language) == ("org/base", ["org/data"], "mit", "en")
    assert data.pipeline_tag == "text-generation" and "mine" in data.tags
    (result,) = data.eval_results or []
    assert (result.metric_type, result.metric_value, result.task_type) == ("accuracy", 0.75, "text-classification")


def test_a_trainer_from_python_writes_this_card_where_it_publishes(tmp_path: Path) -> None:
    """As push_to_hub and TRL's Trainers call it; scores are those of the last evaluation."""
    run = trainer(tmp_path, eval_strategy="steps", eval_steps=2)
    run.train()
    run.create_model_card(model_name="tuned", dataset_tags=["org/data"])
    card = card_of(tmp_path)
    assert card.text.strip().startswith("# tuned") and "zoft.replay(base_model, 'zo_log')" in card.text
    last = [entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry][-1]
    assert [result.metric_value for result in card.data.eval_results or []] == [last]
    assert f"| budget | {4 * 6} forwards" in card.text
    assert "runtime" not in card.text and "second" not in card.text


def test_a_trainer_that_took_no_step_writes_no_card(tmp_path: Path) -> None:
    trainer(tmp_path).create_model_card()
    assert not (tmp_path / "README.md").exists()


def test_a_private_runs_card_states_its_promise_and_no_secret(private: Path, tmp_path: Path) -> None:
    text = card_of(private).text
    assert "6 charges cost epsilon" in text and "at delta 1e-05" in text and "add/remove" in text
    assert "## Results" not in text and "loss" not in text
    run = private_trainer(tmp_path)
    run.train()
    run.create_model_card()
    card = card_of(tmp_path)
    assert "differential-privacy" in card.data.tags and "loss" not in card.text
    assert "4 examples a step are expected" in card.text


def test_no_model_no_card(recipe: str, tmp_path: Path) -> None:
    train(["--config", recipe, "--output_dir", str(tmp_path / "run"), "--max_steps", "1", "--save_model", "False"])
    assert not (tmp_path / "run" / "README.md").exists() and (tmp_path / "run" / "trainer_state.json").exists()
