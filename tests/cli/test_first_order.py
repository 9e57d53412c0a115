"""``zo_method: adamw``: the same recipe by gradients, with everything else equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from zoft.cli.config import parse_arguments
from zoft.cli.families import family_of
from zoft.cli.train import main
from zoft.tasks.scoring import option_losses

ADAMW = ("--zo_method", "adamw")


@pytest.fixture
def train(recipe: str, tmp_path: Path) -> Any:
    def run(name: str, *flags: str) -> Path:
        main(["--config", recipe, "--output_dir", str(tmp_path / name), *flags])
        return tmp_path / name

    return run


def metrics(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return loaded


def trained(folder: Path) -> torch.nn.Module:
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(folder)
    return model


def test_both_orders_start_from_the_same_scores_on_the_same_rows(train: Any) -> None:
    first, zeroth = train("first", *ADAMW), train("zeroth")
    assert metrics(first)["before"] == metrics(zeroth)["before"]
    assert metrics(first)["trained_parameters"] == metrics(zeroth)["trained_parameters"]
    assert metrics(first)["after"]["loss"] < metrics(first)["before"]["loss"]
    assert not (first / "zo_log").exists() and (first / "resolved_config.yaml").exists()


@pytest.mark.parametrize("method", ["adamw", "sgd"])
def test_a_step_is_that_of_torch_on_the_recipes_loss(method: str, recipe: str, base: str, train: Any) -> None:
    flags = ("--zo_method", method, "--max_steps", "1", "--per_device_train_batch_size", "48", "--max_grad_norm", "0")
    got = trained(train("run", *flags))
    parsed = parse_arguments(["--config", recipe])
    model = AutoModelForCausalLM.from_pretrained(base)
    family = family_of(parsed)
    problem = family.build(parsed, family.read(parsed), model, AutoTokenizer.from_pretrained(base))
    optimizer = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[method](
        model.parameters(), lr=1e-2, weight_decay=0.0
    )
    option_losses(model, problem.collator([problem.train[i] for i in range(48)])).mean().backward()
    optimizer.step()
    for (name, mine), theirs in zip(got.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4, msg=name)


def test_only_what_the_recipe_trains_is_changed(base: str, train: Any) -> None:
    got, before = trained(train("run", *ADAMW, "--zo_include", "*norm*")), trained(Path(base))
    for (name, after), start in zip(got.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(after, start) != ("norm" in name), name


def test_forwards_are_those_of_equal_arithmetic(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train("run", *ADAMW, "--max_steps", "4", "--gradient_accumulation_steps", "2")
    assert metrics(folder)["forwards"] == 4 * 2 * 3
    assert "a step by gradients counts for 3 forwards" in capsys.readouterr().out
    card = (folder / "README.md").read_text()
    assert "by gradients (adamw) with zoft." in card and "forward passes alone" not in card
    assert "| budget | 24 forwards, a step by gradients counted for 3 |" in card and "Rebuilding" not in card


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(train: Any) -> None:
    saving = ("--save_strategy", "steps", "--save_steps", "4")
    whole = trained(train("whole", *ADAMW, *saving, "--max_steps", "8", "--lr_scheduler_type", "constant"))
    train("parts", *ADAMW, *saving, "--max_steps", "4", "--lr_scheduler_type", "constant")
    parts = trained(train("parts", *ADAMW, *saving, "--max_steps", "8", "--lr_scheduler_type", "constant", "--resume"))
    for mine, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--zo_lr", "auto"), "zo_lr is for forward passes"),
        (("--zo_placement", "stream"), "zo_placement is for forward passes"),
        (("--zo_checkpoints", "log"), "zo_checkpoints is for forward passes"),
        (("--dp_noise_multiplier", "1", "--dp_target_delta", "1e-5"), "private runs are zeroth-order"),
        (("--optim", "adafactor"), "optim adafactor contradicts zo_method adamw"),
        (("--resume",), "holds no checkpoint to resume from"),
    ],
)
def test_what_gradients_do_not_have_is_refused(
    flags: tuple[str, ...], message: str, train: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        train("run", *ADAMW, *flags)
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_files_of_the_two_orders_are_not_mixed(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    train("run", "--max_steps", "2")
    with pytest.raises(SystemExit):
        train("run", *ADAMW)
    assert "holds the log of a run by forward passes" in capsys.readouterr().err
