"""Models with a layer for classes, from the command line: probed first, resumed, replayed, measured, refused."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from tests.tasks.classifiers import OF_IMAGES, TOPICS, save_body, write_images, write_texts
from zoft.cli.evaluate import main as evaluate
from zoft.cli.replay import main as replay
from zoft.cli.train import main as train
from zoft.errors import ZoftWarning
from zoft.evaluation import last_layer
from zoft.recipe import read_recipe

STEPS = 6
# Few rows of few words are alike, or on one side.
pytestmark = pytest.mark.filterwarnings("ignore:the data:zoft.errors.ZoftWarning")

PROBED = ["--linear_probe_first"]
ADAPTER = ["--use_peft", "--lora_r", "2", "--lora_target_modules", "all-linear"]
RUNS = {
    "bert": PROBED,
    "roberta": PROBED,
    "vit": PROBED,
    "resnet": PROBED,
    "adapted bert": [*PROBED, *ADAPTER],
    "adapted roberta": [*PROBED, *ADAPTER],
    "adapted vit": [*PROBED, *ADAPTER],
}


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classification")
    write_texts(folder / "rows.jsonl")
    write_images(folder / "images")
    return folder


def flags_of(body: str, assets: Path, folder: Path, *flags: str) -> list[str]:
    if not (assets / body).exists():
        save_body(body, assets / body)
    task, rows = ("image_classification", "images") if body in OF_IMAGES else ("text_classification", "rows.jsonl")
    given = ["--task", task, "--dataset", str(assets / rows), "--model_name_or_path", str(assets / body)]
    given += ["--output_dir", str(folder), "--max_steps", str(STEPS), "--learning_rate", "1e-3", "--zo_eps", "1e-2"]
    given += ["--eval_fraction", "0.2", "--per_device_train_batch_size", "4", "--save_strategy", "no", "--use_cpu"]
    return [*given, "true", "--report_to", "none", "--disable_tqdm", "true", *flags]


def run_of(body: str, assets: Path, folder: Path, *flags: str) -> dict[str, Any]:
    train(flags_of(body, assets, folder, *flags))
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return metrics


def refused(capsys: pytest.CaptureFixture[str], main: Any, *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(list(argv))
    assert caught.value.code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- the probe ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", RUNS)
def test_replay_and_resume_begin_with_the_probe_that_the_run_began_with(
    kind: str, assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another machine, or another number of threads, fits a layer that differs in its last bits."""
    body, whole, cut = kind.split()[-1], tmp_path / "whole", tmp_path / "cut"
    run_of(body, assets, whole, *RUNS[kind])
    shutil.copytree(whole, cut)
    (cut / "zo_log").write_bytes((whole / "zo_log").read_bytes()[:-1])

    fold = last_layer._folded
    monkeypatch.setattr(last_layer, "_folded", lambda fitted: tuple(part * (1 + 2**-20) for part in fold(fitted)))
    resolved = str(whole / "resolved_config.yaml")
    assert set(read_recipe(resolved)["labels"]) in ({"bright", "dark", "grey"}, set(TOPICS))
    (hidden := assets.with_name("hidden")).mkdir()
    for name in ("rows.jsonl", "images"):
        shutil.move(assets / name, hidden)
    try:
        replay(["--config", resolved, "--verify", str(whole)])  # needs no rows
    finally:
        for name in ("rows.jsonl", "images"):
            shutil.move(hidden / name, assets)
        hidden.rmdir()
    assert "bit-identical" in capsys.readouterr().out
    run_of(body, assets, cut, *RUNS[kind], "--resume")
    assert (cut / "zo_log").read_bytes() == (whole / "zo_log").read_bytes()
    assert_equal(weights_of(cut), weights_of(whole))

    branch = tmp_path / "branch"
    replay(["--config", resolved, "--upto_step", "2", "--branch_to", str(branch)])
    run_of(body, assets, branch, *RUNS[kind], "--resume")
    assert (branch / "zo_log").read_bytes() == (whole / "zo_log").read_bytes()

    for start in whole.glob("*_start"):
        shutil.rmtree(start)
    assert "this is not the log's base model" in refused(capsys, replay, "--config", resolved)


def test_each_log_in_a_folder_keeps_its_own_probe(assets: Path, tmp_path: Path) -> None:
    run_of("bert", assets, tmp_path, *PROBED)
    first = load_file(tmp_path / "head_start" / "head.safetensors")
    run_of("bert", assets, tmp_path, *PROBED, "--max_train_samples", "30")
    assert_equal(load_file(tmp_path / "head_start.1" / "head.safetensors"), first)
    assert not torch.equal(
        load_file(tmp_path / "head_start" / "head.safetensors")["classifier.weight"], first["classifier.weight"]
    )


@pytest.mark.parametrize("body", ["bert", "vit"])
def test_an_adapter_is_saved_with_its_layer_for_classes(body: str, assets: Path, tmp_path: Path) -> None:
    run_of(body, assets, tmp_path, *PROBED, *ADAPTER)
    auto = AutoModelForImageClassification if body in OF_IMAGES else AutoModelForSequenceClassification
    base = auto.from_pretrained(assets / body, num_labels=3)
    start = load_file(tmp_path / "adapter_start" / "adapter_model.safetensors")
    name = next(name for name in start if name.endswith("classifier.weight"))
    assert not torch.equal(start[name], base.classifier.weight)
    loaded = PeftModel.from_pretrained(base, str(tmp_path))
    saved = load_file(tmp_path / "adapter_model.safetensors")[name]
    assert torch.equal(loaded.base_model.model.classifier.modules_to_save["default"].weight, saved)
    assert not torch.equal(saved, start[name]), "it is trained, too"


def test_gradients_start_from_the_same_probe(assets: Path, tmp_path: Path) -> None:
    by_forwards = run_of("roberta", assets, tmp_path / "zo", *PROBED)
    by_gradients = run_of("roberta", assets, tmp_path / "adamw", *PROBED, "--zo_method", "adamw")
    assert by_forwards["before"] == by_gradients["before"]
    assert by_forwards["after"] != by_gradients["after"]


def test_a_random_layer_is_warned_of_and_what_helps_is_named(assets: Path, tmp_path: Path) -> None:
    with pytest.warns(
        ZoftWarning, match=r"does not hold classifier\.bias, classifier\.weight: .* --linear_probe_first"
    ):
        run_of("bert", assets, tmp_path / "zo")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ZoftWarning)
        warnings.filterwarnings("ignore", "the data", ZoftWarning)
        run_of("bert", assets, tmp_path / "adamw", "--zo_method", "adamw")
        run_of("bert", assets, tmp_path / "again", "--model_name_or_path", str(tmp_path / "adamw"))


def test_a_layer_for_other_classes_is_warned_of(assets: Path, tmp_path: Path) -> None:
    """As many classes by other names: the layer is kept, and its outputs mean something else."""
    run_of("bert", assets, tmp_path / "made", *PROBED)
    other = dict(zip(TOPICS, ("x", "y", "z"), strict=True))
    rows = [json.loads(line) for line in (assets / "rows.jsonl").read_text().splitlines()]
    renamed = tmp_path / "renamed.jsonl"
    renamed.write_text("\n".join(json.dumps({**row, "label": other[row["label"]]}) for row in rows))
    flags = ["--model_name_or_path", str(tmp_path / "made"), "--dataset", str(renamed)]
    first = min(TOPICS)
    with pytest.warns(ZoftWarning, match=rf"first output \({first}\) now stands for x\. .* --linear_probe_first"):
        run_of("bert", assets, tmp_path / "kept", *flags)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ZoftWarning)
        warnings.filterwarnings("ignore", "the data", ZoftWarning)
        run_of("bert", assets, tmp_path / "fitted", *flags, *PROBED)
        run_of("bert", assets, tmp_path / "again", *flags, "--model_name_or_path", str(tmp_path / "kept"))


# --- runs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["bert", "resnet"])
def test_what_is_saved_is_the_model_that_was_measured(body: str, assets: Path, tmp_path: Path) -> None:
    metrics = run_of(body, assets, tmp_path / "run", *PROBED)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert set(config["label2id"]) == set(metrics["after"]["classes"])
    again = run_of(body, assets, tmp_path / "more", "--model_name_or_path", str(tmp_path / "run"))
    assert again["before"] == metrics["after"]
    examples = json.loads((tmp_path / "run" / "examples.json").read_text())
    assert examples[0]["expected"] in config["label2id"] and examples[0]["prompt"]


def test_a_run_is_measured_before_and_after_by_zoft_eval(assets: Path, tmp_path: Path) -> None:
    metrics = run_of("bert", assets, tmp_path / "run", *PROBED)
    evaluate(["--run", str(tmp_path / "run"), "--output_file", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())["results"]
    for one in found:
        assert one["accuracy"] == metrics[one["model"]]["accuracy"]
        assert one["loss"] == pytest.approx(metrics[one["model"]]["loss"], abs=1e-6)
    assert [one["model"] for one in found] == ["before", "after"]


def test_shuffled_labels_are_probed_as_they_are(assets: Path, tmp_path: Path) -> None:
    """The control run's probe sees no true label, so what is measured is near chance on both."""
    metrics = run_of("bert", assets, tmp_path, *PROBED, "--shuffle_labels")
    assert metrics["after"] != metrics["after_on_true_labels"]


def test_a_private_run_is_told_its_classes_and_reads_none(
    assets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private = ["--dp_noise_multiplier", "1.0", "--dp_target_delta", "1e-3"]
    flags = flags_of("bert", assets, tmp_path / "run", *private)
    assert "say which there are with labels" in refused(capsys, train, *flags)
    flags += ["--labels", *TOPICS]
    assert "linear_probe_first fits a layer to the training rows" in refused(capsys, train, *flags, *PROBED)
    with pytest.warns(ZoftWarning, match="starts out random"):
        train(flags)
    assert "classes" not in (said := capsys.readouterr().out) and "private rows are not inspected" in said


@pytest.mark.parametrize(
    ("body", "flags", "message"),
    [
        (
            "bert",
            ["--template", "{text}"],
            "template is for tasks with a prompt, and task text_classification has none",
        ),
        ("bert", ["--image_column", "img"], "image_column is for task image_classification"),
        ("vit", ["--text_columns", "a"], "text_columns is for task text_classification"),
        ("bert", ["--text_columns", "a", "b", "c"], "one column, or two with a pair of texts; got a, b, c"),
        ("bert", ["--text_columns", "txt"], "line 1: there is no column 'txt'"),
        ("bert", ["--label_column", "lable"], "there is no column 'lable'.* Did you mean 'label'"),
        ("bert", ["--labels", "sport", "money"], "holds 'food', known labels are sport, money"),
        ("bert", ["--labels", "sport", "sport"], "labels must be at least two different classes"),
        ("bert", ["--objective", "accuracy"], "task text_classification minimises the cross-entropy"),
        ("bert", [*PROBED, "--use_peft", "--peft_type", "ia3"], "peft_type ia3 saves no layer for classes"),
        ("vit", [*PROBED, "--device_map", "auto"], "linear_probe_first writes a layer that device_map may have put"),
        ("vit", ["--task", "text_classification"], "this is a folder"),
    ],
)
def test_what_does_not_go_together_is_refused(
    body: str, flags: list[str], message: str, assets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, train, *flags_of(body, assets, tmp_path / "run", *flags))
    assert re.search(message, said), said
    assert not (tmp_path / "run").exists()


def test_other_tasks_have_no_layer_to_probe(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, train, "--config", recipe, *PROBED)
    assert "only task image_classification or text_classification has one" in said


def test_a_replay_without_rows_needs_the_classes(
    assets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = flags_of("bert", assets, tmp_path / "run", *PROBED)
    train(flags)
    assert "labels is missing" in refused(capsys, replay, *flags)
