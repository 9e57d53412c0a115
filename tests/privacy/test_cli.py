"""``zoft-train --dp_...``: what it prints, refuses and measures."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from opacus.accountants import create_accountant
from opacus.accountants.utils import get_noise_multiplier
from transformers import AutoModelForCausalLM

import zoft
from tests.cli.runs import finish, make_assets, start_training
from tests.core.runs import digest
from zoft.cli.replay import main as replay
from zoft.cli.train import main
from zoft.log_file import ReplayLog
from zoft.recipe import read_recipe

BUDGET = ["--dp_target_epsilon", "4", "--dp_target_delta", "1e-4"]
QUICK = ["--dp_noise_multiplier", "1", "--dp_target_delta", "1e-5", "--dp_accountant", "rdp", "--max_steps", "4"]
STEPS, RATE = 24, 4 / 48


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_assets(tmp_path_factory.mktemp("assets")))


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")


@pytest.fixture
def train(recipe: str, tmp_path: Path) -> Any:
    def run(*flags: str, config: str = recipe) -> Path:
        main(["--config", config, "--output_dir", str(tmp_path / "run"), *flags])
        return tmp_path / "run"

    return run


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(list(argv))
    assert caught.value.code == 2
    return capsys.readouterr().err


def metrics(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "metrics.json").read_text()))


@pytest.mark.filterwarnings("ignore:Optimal order is the largest alpha")  # Opacus's, called here directly
@pytest.mark.parametrize("accountant", [pytest.param("prv", marks=pytest.mark.slow), "rdp"])
def test_noise_and_epsilon_are_what_opacus_says(
    accountant: str, train: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(*BUDGET, "--dp_accountant", accountant)
    said = capsys.readouterr().out
    noise = get_noise_multiplier(
        target_epsilon=4.0, target_delta=1e-4, sample_rate=RATE, steps=STEPS, accountant=accountant
    )
    counted = create_accountant(accountant)
    for _ in range(STEPS):
        counted.step(noise_multiplier=noise, sample_rate=RATE)
    epsilon = counted.get_epsilon(delta=1e-4)
    assert f"noise multiplier {noise:.4g} for epsilon 4 at delta 0.0001 (accountant {accountant})" in said
    assert f"privacy: {STEPS} charges cost epsilon {epsilon:.4g} at delta 0.0001" in said
    assert "4 of 48 examples a step" in said and "add/remove" in said
    figures = metrics(folder)
    assert figures["epsilon"] == round(epsilon, 4) <= 4.0 and figures["noise_multiplier"] == noise
    assert (figures["delta"], figures["charged"], figures["sample_rate"]) == (1e-4, STEPS, RATE)


def test_held_out_rows_are_not_measured_unless_they_are_public(
    train: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    private = metrics(train(*QUICK))
    said = capsys.readouterr().out
    assert "the held-out rows are taken for private: nothing is measured on them" in said and "accuracy" not in said
    assert not {"before", "after", "train_seconds", "peak_memory_gib"} & private.keys()
    assert not re.search(r"in \d+ s", said)
    (tmp_path / "run").rename(tmp_path / "private")
    public = metrics(train(*QUICK, "--dp_eval_is_public"))
    assert "before: accuracy" in capsys.readouterr().out
    assert public["before"]["n"] == public["after"]["n"] == 12


def test_the_run_replays_and_its_settings_repeat_it(train: Any, recipe: str, tmp_path: Path) -> None:
    folder = train(*QUICK)
    base = AutoModelForCausalLM.from_pretrained(read_recipe(recipe)["model_name_or_path"])
    assert zoft.replay(base, folder / "zo_log") == 4
    assert digest(base) == digest(AutoModelForCausalLM.from_pretrained(folder))
    settings = read_recipe(folder / "resolved_config.yaml")
    assert settings["dp_noise_multiplier"] == 1 and settings["dp_target_delta"] == 1e-5
    folder.rename(tmp_path / "first")
    again = train(config=str(tmp_path / "first" / "resolved_config.yaml"))
    logs = [ReplayLog.open(path / "zo_log") for path in (tmp_path / "first", again)]
    assert logs[0].header == logs[1].header
    assert logs[0].records[0].scalars != logs[1].records[0].scalars, "all but its noise"


def test_recipes_take_the_same_keys(train: Any, recipe: str, tmp_path: Path) -> None:
    keys = "dp_noise_multiplier: 1.0\ndp_target_delta: 1e-5\ndp_accountant: rdp\ndp_clip_threshold: 2.5\n"
    (tmp_path / "private.yaml").write_text(Path(recipe).read_text() + keys)
    figures = metrics(train("--max_steps", "2", config=str(tmp_path / "private.yaml")))
    assert (figures["noise_multiplier"], figures["clip_threshold"], figures["charged"]) == (1.0, 2.5, 2)


REFUSED: dict[str, tuple[list[str], str]] = {
    "a flag misspelled": (["--dp_target_epsilom", "4"], r"did you mean.*dp_target_epsilon"),
    "no delta": (["--dp_target_epsilon", "4"], r"dp_target_delta is missing"),
    "no budget": (["--dp_clip_threshold", "1"], r"dp_clip_threshold is for private runs, and this is none"),
    "a delta alone": (["--dp_target_delta", "1e-5"], r"dp_target_delta is for private runs"),
    "a budget of nothing": (["--dp_target_epsilon", "0", "--dp_target_delta", "1e-5"], r"must be a finite number > 0"),
    "a delta of one": (["--dp_target_epsilon", "1", "--dp_target_delta", "1"], r"must be a number in \(0, 1\)"),
    "an accountant": ([*BUDGET, "--dp_accountant", "gdp"], r"dp_accountant.*invalid choice|gdp"),
    "a method": ([*QUICK, "--zo_method", "hizoo"], r"cannot be private"),
    "auto": ([*QUICK, "--zo_lr", "auto"], r"zo_lr='auto' measures losses"),
    "evaluation": ([*QUICK, "--eval_strategy", "steps", "--eval_steps", "2"], r"eval_strategy measures"),
    "shuffled labels": ([*QUICK, "--shuffle_labels"], r"shuffle_labels gives rows each other's labels"),
    "too large a batch": ([*QUICK, "--per_device_train_batch_size", "60"], r"number of examples, 48; got 60"),
    "laplace with delta": ([*QUICK, "--dp_mechanism", "laplace"], r"Leave it out"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_is_refused_in_a_line(
    case: tuple[list[str], str], recipe: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags, says = case
    err = refused(capsys, "--config", recipe, "--output_dir", str(tmp_path / "run"), *flags)
    assert re.search(says, err, re.IGNORECASE), err
    assert "Traceback" not in err


def test_an_interrupted_run_resumes_and_keeps_its_charges(
    train: Any, recipe: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from zoft.engine import ZOEngine

    original = ZOEngine.estimates

    def estimates(self: ZOEngine, losses: Any) -> Any:
        if self.step == 2:
            raise KeyboardInterrupt
        return original(self, losses)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setattr(ZOEngine, "estimates", estimates)
        train(*QUICK)
    assert caught.value.code == 130
    folder = train(*QUICK, "--resume")
    assert "5 charges cost epsilon" in capsys.readouterr().out
    assert (metrics(folder)["charged"], metrics(folder)["steps"]) == (5, 4)

    twig = tmp_path / "twig"
    replay(["--config", recipe, "--output_dir", str(folder), "--upto_step", "1", "--branch_to", str(twig)])
    assert ReplayLog.open(twig / "zo_log").intents == 5
    main(["--config", recipe, "--output_dir", str(twig), *QUICK, "--resume"])
    assert metrics(twig)["charged"] == 5 + 3, "a branch pays for what its trunk has seen"

    with pytest.raises(SystemExit):
        train("--max_steps", "4", "--resume")
    assert "was made with privacy = " in capsys.readouterr().err


@pytest.mark.slow
def test_killed_at_random_moments_a_run_never_forgets_a_charge(recipe: str, tmp_path: Path) -> None:
    """With kill -9; the charges on the disk only grow, records stay, and no noise is drawn again."""
    folder, output = tmp_path / "run", tmp_path / "said.txt"
    flags = ["--dp_noise_multiplier", "1", "--dp_target_delta", "1e-5", "--dp_accountant", "rdp"]
    argv = ["--config", recipe, "--output_dir", str(folder), *flags, "--save_strategy", "steps", "--save_steps", "5"]
    log, held, charged = folder / "zo_log", [], 0
    for number in range(5):
        before = log.stat().st_size if log.exists() else 0
        process = start_training([*argv, "--resume"] if log.exists() else argv, output)
        deadline = time.monotonic() + 120
        while process.is_alive() and (not log.exists() or log.stat().st_size < max(before, 1) + 90 * (number + 1)):
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.0005)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        now = ReplayLog.open(log)
        assert now.intents >= max(charged, len(now.records))
        assert [record.scalars for record in now.records[: len(held)]] == held, "what was committed stays"
        held, charged = [record.scalars for record in now.records], now.intents
    finish([*argv, "--resume"], output)
    done = ReplayLog.open(log)
    assert len(done.records) == STEPS and [record.scalars for record in done.records[: len(held)]] == held
    assert metrics(folder)["charged"] == done.intents >= charged >= len(held)
    assert len({record.scalars for record in done.records}) == STEPS
    base = AutoModelForCausalLM.from_pretrained(read_recipe(recipe)["model_name_or_path"])
    zoft.replay(base, log)
    assert digest(base) == digest(AutoModelForCausalLM.from_pretrained(folder))
