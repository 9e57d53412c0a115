"""``zoft-replay``: the fine-tuned model from the base model and the log, without data."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.cli.runs import STEPS, make_assets
from zoft.cli.recipe import read_recipe
from zoft.cli.replay import main
from zoft.cli.train import main as train


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_assets(tmp_path_factory.mktemp("assets")))


@pytest.fixture(scope="module", params=["float32", "bfloat16", "lora"])
def run(request: pytest.FixtureRequest, recipe: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    flags = ["--use_peft"] if request.param == "lora" else ["--dtype", request.param]
    train(["--config", recipe, "--output_dir", str(folder), "--weight_decay", "0.1", *flags])
    return folder


@pytest.fixture(scope="module")
def plain(recipe: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    train(["--config", recipe, "--output_dir", str(folder)])
    return folder


def replay(folder: Path, *flags: str) -> None:
    main(["--config", str(folder / "resolved_config.yaml"), *flags])


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *flags: str) -> str:
    with pytest.raises(SystemExit) as caught:
        replay(folder, *flags)
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_the_saved_model_is_verified_bit_for_bit(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replay(run, "--verify", str(run))
    said = capsys.readouterr().out
    assert f"replayed {STEPS} steps" in said and f"{run} is bit-identical" in said


def test_no_data_is_needed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replay(run, "--verify", str(run), "--dataset", str(tmp_path / "gone.jsonl"))
    assert "bit-identical" in capsys.readouterr().out


def test_the_replayed_model_is_saved_whole(plain: Path, tmp_path: Path) -> None:
    replay(plain, "--save_to", str(tmp_path / "out"))
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    AutoTokenizer.from_pretrained(tmp_path / "out")


def test_an_earlier_step_is_another_model(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replay(plain, "--upto_step", str(STEPS - 1), "--save_to", str(tmp_path / "out"))
    assert f"replayed {STEPS - 1} steps" in capsys.readouterr().out
    said = refused(capsys, plain, "--verify", str(tmp_path / "out"))
    assert "the replayed model differs from" in said and "differs first" in said
    replay(plain, "--upto_step", str(STEPS - 1), "--verify", str(tmp_path / "out"))


def test_a_checkpoint_is_verified_at_its_step(recipe: str, tmp_path: Path) -> None:
    train(["--config", recipe, "--output_dir", str(tmp_path), "--save_strategy", "steps", "--save_steps", "10"])
    replay(tmp_path, "--upto_step", "10", "--verify", str(tmp_path / "checkpoint-10"))


def test_one_flipped_bit_is_found(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = load_file(plain / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name].view(torch.int32)[3, 3] ^= 1
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert f"{name} differs first" in refused(capsys, plain, "--verify", str(tmp_path))


def test_a_saved_model_that_lacks_a_tensor_is_not_identical(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = load_file(plain / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert name in refused(capsys, plain, "--verify", str(tmp_path))


def test_what_does_not_fit_is_refused(
    plain: Path, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no replay log can be read" in refused(capsys, plain, "--log", str(tmp_path / "none"))
    assert f"upto_step must be in [0, {STEPS}]" in refused(capsys, plain, "--upto_step", "99")
    assert "there is no saved model to verify" in refused(capsys, plain, "--verify", str(tmp_path))
    assert "same dtype" in refused(capsys, plain, "--dtype", "bfloat16")
    assert "is not a zoft replay log" in refused(capsys, plain, "--log", recipe)
    base = shutil.copytree(read_recipe(recipe)["model_name_or_path"], tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"] += 1e-6
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    said = refused(capsys, plain, "--model_name_or_path", str(base))
    assert "model.norm.weight differs first" in said


def test_unknown_flags_are_refused_with_a_suggestion(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        replay(plain, "--verfy", "x")
    assert caught.value.code == 2 and "--verify" in capsys.readouterr().err
