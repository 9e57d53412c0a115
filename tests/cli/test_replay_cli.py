"""``zoft-replay``: the fine-tuned model from the base model and the log, without data."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.cli.runs import STEPS
from zoft.cli.replay import main
from zoft.cli.train import main as train
from zoft.recipe import read_recipe


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


# --- steps, branches, differences ----------------------------------------------------------------------


def test_step_zero_is_the_base_model(plain: Path, recipe: str, tmp_path: Path) -> None:
    replay(plain, "--upto_step", "0", "--save_to", str(tmp_path / "out"))
    base = Path(read_recipe(recipe)["model_name_or_path"])
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


@pytest.mark.parametrize("step", ["-1", "99"])
def test_a_step_that_the_log_lacks_is_refused_before_the_model_is_loaded(
    step: str, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, plain, "--upto_step", step, "--model_name_or_path", str(tmp_path / "none"))
    assert f"upto_step must be in [0, {STEPS}], the log's length; got {step}" in said


def test_the_log_may_be_named_by_its_folder(plain: Path, tmp_path: Path) -> None:
    replay(plain, "--log", str(plain), "--output_dir", str(tmp_path), "--verify", str(plain))


def test_ctrl_c_ends_with_130_and_one_line(
    plain: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("zoft.engine.ZOEngine.apply", interrupted)
    with pytest.raises(SystemExit) as caught:
        replay(plain)
    said = capsys.readouterr().err
    assert caught.value.code == 130 and "interrupted" in said and "Traceback" not in said


def test_a_long_replay_shows_how_far_it_is_on_a_terminal_only(
    plain: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    replay(plain, "--disable_tqdm", "False")
    assert "replay:" not in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    replay(plain, "--disable_tqdm", "False")
    assert f"{STEPS}/{STEPS}" in capsys.readouterr().err
    replay(plain, "--disable_tqdm", "True")
    assert "replay:" not in capsys.readouterr().err


def test_a_branch_is_gone_on_with_by_resuming(
    plain: Path, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (plain / "zo_log").read_bytes()
    replay(plain, "--upto_step", "10", "--branch_to", str(tmp_path), "--model_name_or_path", "./not_needed")
    assert f"wrote the first 10 of {STEPS} steps to {tmp_path}" in capsys.readouterr().out
    train(["--config", recipe, "--output_dir", str(tmp_path), "--resume"])
    assert (tmp_path / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert (tmp_path / "zo_log").read_bytes() == before == (plain / "zo_log").read_bytes()
    assert "a branch needs a folder of its own" in refused(capsys, plain, "--branch_to", str(plain))


def diff(*argv: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["--diff", *argv])
    return int(caught.value.code or 0)


def test_diff_names_the_first_step_that_differs(
    plain: Path, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert diff(str(plain), str(plain / "zo_log")) == 0
    assert capsys.readouterr().out == f"all {STEPS} steps are identical\n"

    main(["--config", str(plain / "resolved_config.yaml"), "--upto_step", "9", "--branch_to", str(tmp_path / "a")])
    with pytest.warns(UserWarning, match="the log is followed"):
        train(["--config", recipe, "--output_dir", str(tmp_path / "a"), "--resume", "--learning_rate", "2e-2"])
    capsys.readouterr()
    assert diff(str(plain), str(tmp_path / "a")) == 1
    said = capsys.readouterr().out
    assert said.startswith("step 9 differs first: lrs (") and said.count("\n") == 1

    train(["--config", recipe, "--output_dir", str(tmp_path / "b"), "--seed", "1", "--max_steps", "1"])
    capsys.readouterr()
    assert diff(str(plain), str(tmp_path / "b")) == 1
    assert capsys.readouterr().out.startswith("seed: 42 | 1\n")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["a"], "expected 2 arguments"),
        (["a", "b", "c"], "unrecognized arguments: c"),
        (["a", "b", "--upto_step", "3"], "unrecognized arguments: --upto_step 3"),
        (["no_such", "b"], "no replay log can be read at no_such"),
    ],
)
def test_diff_of_what_cannot_be_compared_is_trouble(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert diff(*argv) == 2
    assert message in capsys.readouterr().err


def test_diff_starts_at_once(plain: Path) -> None:
    """Neither torch nor transformers is imported."""
    script = (
        "import sys\nfrom zoft.cli.replay import main\n"
        "try: main(['--diff', sys.argv[1], sys.argv[1]])\n"
        "finally: assert not {'torch', 'transformers', 'numba'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(plain)], check=True)
