"""The packaged model with real reviews: a prefix starts where it should, and adapters learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model

from zoft.cli.arguments.adapter import AdapterArguments
from zoft.cli.arguments.model import ModelArguments
from zoft.cli.models import load_model_and_tokenizer
from zoft.cli.replay import main as replay
from zoft.cli.train import main as train
from zoft.tasks.assets import load_packaged_dataset

pytestmark = pytest.mark.slow

RECIPES = Path(__file__).parents[2] / "recipes"
MODEL = "packaged:smollm2-135m-instruct"


def test_a_prefix_from_text_leaves_the_language_model_whole_and_a_random_one_does_not() -> None:
    texts = [row["text"] for row in load_packaged_dataset("packaged:rotten-tomatoes")[::400]]

    def loss(model: torch.nn.Module, tokenizer: Any) -> float:
        ids = [torch.tensor([tokenizer(text)["input_ids"]]) for text in texts]
        with torch.no_grad():
            return float(sum(model(input_ids=row, labels=row).loss for row in ids) / len(ids))

    bare = loss(*load_model_and_tokenizer(ModelArguments(MODEL)))
    adapter = AdapterArguments(use_peft=True, peft_type="prefix_tuning")
    started = loss(*load_model_and_tokenizer(ModelArguments(MODEL), adapter=adapter))
    model, tokenizer = load_model_and_tokenizer(ModelArguments(MODEL))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = PrefixTuningConfig(num_virtual_tokens=adapter.num_virtual_tokens, task_type="CAUSAL_LM")
        drawn = loss(get_peft_model(model, config).eval(), tokenizer)
    print(f"nats a token: the model {bare:.3f}, with a prefix from text {started:.3f}, with a random one {drawn:.3f}")
    assert abs(started - bare) < 0.5 and drawn - bare > 2


LORA = ["lora.yaml", "--learning_rate", "3e-3", "--lr_scheduler_type", "constant"]
PREFIX = [
    "quickstart.yaml",
    "--use_peft",
    "--peft_type",
    "prefix_tuning",
    "--zo_eps",
    "1e-1",
    "--learning_rate",
    "5e-2",
]


@pytest.mark.parametrize(("recipe", "flags"), [(LORA[0], LORA[1:]), (PREFIX[0], PREFIX[1:])], ids=["lora", "prefix"])
def test_adapters_learn_real_reviews_and_replay(
    recipe: str, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--max_steps", "15", "--max_eval_samples", "100", "--output_dir", str(tmp_path), "--disable_tqdm", "true"]
    train(["--config", str(RECIPES / recipe), *flags, *short])
    scores = json.loads((tmp_path / "metrics.json").read_text())
    assert scores["after"]["loss"] < scores["before"]["loss"] - 0.3
    replay(["--config", str(tmp_path / "resolved_config.yaml"), "--verify", str(tmp_path)])
    assert "bit-identical" in capsys.readouterr().out
