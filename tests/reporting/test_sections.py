"""What ``zoft-report`` says of runs is what their files hold, and of a private one nothing that is secret."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zoft
from tests.pages import Page
from tests.reporting.conftest import EXAMPLES, reported
from zoft.cli.replay import main as replay
from zoft.cli.report import main as report
from zoft.cli.train import main as train
from zoft.log_file import ReplayLog, branch
from zoft.reporting.thinning import POINTS, mean, thinned, windows
from zoft.types import StepRecord


def of(section: dict[str, Any], run: Path) -> dict[str, Any]:
    found: dict[str, Any] = section["runs"][str(run)]
    return found


# --- a run's own figures -------------------------------------------------------------------------------


def test_figures_are_those_of_the_runs_files(finished: Path, tmp_path: Path) -> None:
    said, records = reported(finished, out=tmp_path), ReplayLog.open(finished / "zo_log").records
    metrics = json.loads((finished / "metrics.json").read_text())
    assert "privacy" not in said, "no section of what there is not"

    summary = of(said["summary"], finished)
    assert (summary["steps"], summary["planned_steps"], summary["forwards"]) == (40, 40, metrics["forwards"])
    assert summary["scores"]["after"]["accuracy"] == metrics["after"]["accuracy"]
    assert summary["log"]["sha256"] == hashlib.sha256((finished / "zo_log").read_bytes()).hexdigest()
    assert summary["finished"] and summary["notes"] == []

    curves = of(said["curves"], finished)
    assert [loss for _, loss in curves["training_loss"]] == pytest.approx([record.loss for record in records])
    assert curves["first_tenth"] == pytest.approx(np.mean([record.loss for record in records[:4]]))
    losses = curves["evaluations"]["loss"]
    assert [step for step, _ in losses] == [10, 20, 30, 40]
    assert losses[-1][1] == pytest.approx(metrics["after"]["loss"])
    assert curves["before_and_after"]["accuracy"] == [
        [s, metrics[w]["accuracy"]] for s, w in ((0, "before"), (40, "after"))
    ]
    assert [lr for _, lr in curves["learning_rates"][0]] == pytest.approx([record.lrs[0] for record in records])
    assert len(curves["learning_rates"]) == 1, "two groups, with the same rates"

    slopes = np.array([scalar for record in records for scalar in record.scalars])
    found = of(said["projected_grads"], finished)
    assert (found["count"], sum(found["histogram"]["counts"])) == (80, 80)
    assert found["rms"] == pytest.approx(np.sqrt(np.mean(slopes**2))) and found["mean"] == pytest.approx(slopes.mean())
    assert found["largest"]["step"] == 1 + int(np.abs(slopes).argmax()) // 2
    assert abs(found["largest"]["value"]) == pytest.approx(np.abs(slopes).max())

    cost = of(said["cost"], finished)
    assert cost["train_seconds"] == metrics["train_seconds"] and cost["peak_memory_gib"] == metrics["peak_memory_gib"]
    assert len(cost["curves"]["tokens_per_second"]) == 10 and cost["tokens_per_second"] > 0
    assert of(said["configuration"], finished)["weight_decay"] == 0.1


@pytest.mark.parametrize("kind", ["zoft-train", "zoft-replay"])
def test_the_commands_in_a_report_make_the_run_and_its_weights_again(kind: str, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run's"
    shutil.copytree(finished, run)
    summary = of(reported(run, out=tmp_path)["summary"], run)
    program, *flags = shlex.split(summary["train_again" if kind == "zoft-train" else "replay"])
    assert program == kind
    (train if kind == "zoft-train" else replay)(flags)
    again = Path(flags[-1])
    assert again.parent == tmp_path and again != run
    assert (again / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    if kind == "zoft-train":
        assert (again / "zo_log").read_bytes() == (run / "zo_log").read_bytes()


def test_a_run_of_several_processes_is_repeated_with_as_many(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps({**metrics, "processes": 3}))
    again = of(reported(run, out=tmp_path)["summary"], run)["train_again"]
    assert again.startswith("accelerate launch --num_processes 3 -m zoft.cli.train --config ")


# --- what is not there -------------------------------------------------------------------------------------


def test_a_log_alone_is_reported(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    log = shutil.copy(finished / "zo_log", tmp_path / "run")
    said = reported(tmp_path / "run", out=tmp_path)
    whole = reported(finished, out=tmp_path)
    summary = of(said["summary"], tmp_path / "run")
    assert not summary["finished"] and summary["forwards"] is None and summary["train_again"] is None
    assert summary["replay"] == f"import zoft; zoft.replay(model, {log!r})"
    assert of(said["projected_grads"], tmp_path / "run") == of(whole["projected_grads"], finished)
    assert of(said["configuration"], tmp_path / "run")["method"] == "mezo"
    text = capsys.readouterr().out
    assert "no `resolved_config.yaml`" in text and "no `trainer_state.json`" in text and "no `examples.json`" in text


def test_a_run_that_goes_on_is_told_by_its_last_checkpoint(finished: Path, tmp_path: Path) -> None:
    """Nothing of a later state, or of another run in the folder, is taken for its own."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "zo_log").unlink()
    branch(ReplayLog.open(finished / "zo_log"), 30, run)
    said = reported(run, out=tmp_path)
    summary, curves = of(said["summary"], run), of(said["curves"], run)
    assert not summary["finished"] and summary["scores"] == {} and of(said["examples"], run)["examples"] == []
    assert (summary["steps"], summary["planned_steps"], summary["forwards"]) == (30, 40, 30 * 4)
    assert [step for step, _ in curves["evaluations"]["loss"]] == [10, 20], "of checkpoint-20, not of the end"
    notes = " ".join(summary["notes"])
    assert "`metrics.json` is not that of 30 steps" in notes and "up to step 20" in notes


def test_an_earlier_runs_log_is_not_told_by_what_is_beside_it(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "zo_log").rename(run / "zo_log.1")
    summary = of(reported(run / "zo_log.1", out=tmp_path)["summary"], run / "zo_log.1")
    assert summary["model"] is None and summary["scores"] == {} and summary["steps"] == 40


def test_files_that_a_kill_cut_short_are_named(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "metrics.json").write_text('{"steps": 4')
    (run / "examples.json").write_text("{}")
    (run / "resolved_config.yaml").write_text("a: [")
    reported(run, out=tmp_path)
    text = capsys.readouterr().out
    assert "`metrics.json` cannot be read" in text and "`resolved_config.yaml` cannot be read" in text
    assert "`examples.json` holds a dict where a list was expected" in text


def test_a_run_without_a_step_is_reported(tmp_path: Path) -> None:
    header = {
        "format": 1,
        "noise_spec": 1,
        "config": {"method": "mezo", "seed": 0},
        "num_scalars": 1,
        "parameters": [],
        "weight_decays": [0.0],
        "base": {},
    }
    ReplayLog.create(tmp_path / "run" / "zo_log", header).close()
    said = reported(tmp_path / "run", "--html", tmp_path / "r.html", out=tmp_path)
    assert of(said["summary"], tmp_path / "run")["steps"] == 0
    assert of(said["projected_grads"], tmp_path / "run") == {"count": 0}
    assert Page((tmp_path / "r.html").read_text()).open == []


# --- several runs ----------------------------------------------------------------------------------------


def test_of_several_runs_the_settings_that_differ_are_shown(
    finished: Path, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--max_steps", "3", "--seed", "7", "--zo_method", "fzoo"]
    train(["--config", recipe, "--output_dir", str(tmp_path / "other"), *flags])
    capsys.readouterr()
    said = reported(finished, tmp_path / "other", out=tmp_path)
    assert {"zo_method", "seed", "max_steps", "zo_seed", "weight_decay"} <= set(said["configuration"]["shown"])
    assert not {"output_dir", "dataset", "learning_rate"} & set(said["configuration"]["shown"])
    text = capsys.readouterr().out
    assert "| `zo_method` | mezo | fzoo |" in text and "| `weight_decay` | 0.1 | not set |" in text
    assert "|  | finished | other |" in text and "| steps | 40 | 3 |" in text


def test_a_run_by_gradients_is_compared_with_one_by_forward_passes(
    finished: Path, private: Path, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--max_steps", "12", "--zo_method", "adamw", "--logging_steps", "3", "--learning_rate", "1e-3"]
    train(["--config", recipe, "--output_dir", str(tmp_path / "adamw"), *flags])
    capsys.readouterr()
    said = reported(tmp_path / "adamw", finished, private, "--html", tmp_path / "r.html", out=tmp_path)
    summary, curves = of(said["summary"], tmp_path / "adamw"), of(said["curves"], tmp_path / "adamw")
    assert (summary["method"], summary["steps"], summary["forwards"], summary["log"]) == ("adamw", 12, 36, None)
    logged = json.loads((tmp_path / "adamw" / "trainer_state.json").read_text())["log_history"]
    expected = [[entry["step"], entry["loss"]] for entry in logged if "loss" in entry]
    assert curves["training_loss"] == expected and len(expected) == 4
    assert curves["learning_rates"] == [[[e["step"], e["learning_rate"]] for e in logged if "loss" in e]]
    assert of(said["projected_grads"], tmp_path / "adamw") == {"count": 0}
    assert said["privacy"]["together"]["not_private"] == 2
    text = capsys.readouterr().out
    assert "| method | adamw, by gradients | mezo, 2 queries a step |" in text and "It trained by gradients" in text
    assert Page((tmp_path / "r.html").read_text()).open == []


def test_runs_in_folders_of_one_name_keep_the_names_that_they_were_given(finished: Path, tmp_path: Path) -> None:
    other = tmp_path / "x" / "finished"
    shutil.copytree(finished, other)
    said = reported(finished, other, out=tmp_path)
    assert [run["label"] for run in said["summary"]["runs"].values()] == [str(finished), str(other)]


# --- examples ---------------------------------------------------------------------------------------------


def test_examples_are_shown_as_they_are_and_counted(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = reported(finished, "--html", tmp_path / "r.html", out=tmp_path)
    assert of(said["examples"], finished) == {
        "as_expected": {"before": [1, 2], "after": [1, 2]},
        "examples": EXAMPLES,
    }
    assert "```\na film\nit was\n```" in capsys.readouterr().out
    text = (tmp_path / "r.html").read_text()
    page = Page(text)
    assert page.open == [] and {tag for tag, _ in page.tags}.isdisjoint({"b", "em", "script"})
    assert "| &lt;img src=x onerror=alert(1)&gt;\n````\n*it* was\n<" in text, "the prompt, word for word"
    assert "<td>_&lt;b&gt;_</td>" in text and "<p>Expected: a|b</p>" in text
    assert all(str(attrs["src"]).startswith("data:") for tag, attrs in page.tags if tag == "img")


def test_many_examples_make_no_endless_page(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "examples.json").write_text(json.dumps([{"prompt": str(n), "expected": "x"} for n in range(500)]))
    reported(run, out=tmp_path)
    text = capsys.readouterr().out
    assert text.count("### Example ") == 12 and "488 more are in `examples.json`" in text


# --- data ---------------------------------------------------------------------------------------------------


def test_what_was_found_of_the_rows_is_told_once_for_runs_on_the_same(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((finished / "data.json").read_text())
    places = [{"source": "rows_1.csv", "unit": "line", "number": number} for number in (3, 7)]
    content["findings"] = [
        {"kind": "repeated", "severity": "warning", "message": "1 row is there twice", "count": 1, "rows": [places]}
    ]
    one, other, lacking = (tmp_path / name for name in ("one", "other", "lacking"))
    for copy in (one, other, lacking):
        shutil.copytree(finished, copy)
        (copy / "data.json").write_text(json.dumps(content if copy is not lacking else {"splits": []}))
    said = reported(one, other, lacking, out=tmp_path)
    text = capsys.readouterr().out
    assert said["data"]["runs"] == {str(one): content, str(other): content}
    assert "### one, other\n\n| rows | count | labels |" in text and text.count("| training | 48 |") == 1
    assert "- warning: 1 row is there twice: rows\\_1.csv, lines 3 = 7" in text
    (note,) = of(said["summary"], lacking)["notes"]
    assert "data.json" in note


# --- private runs ------------------------------------------------------------------------------------------

SECRETS = {"loss": 0.123450001, "tokens_per_second": 987650.5, "peak_memory_gib": 55.4321, "train_runtime": 4567.75}
SCORES = {"loss": 0.765430001, "accuracy": 0.567890001, "n": 12}


def with_secrets(private: Path, folder: Path) -> Path:
    """A private run, beside which somebody's own callback has written what it should not have."""
    shutil.copytree(private, folder)
    state = json.loads((folder / "trainer_state.json").read_text())
    state["log_history"].append({"step": 6, "eval_loss": SCORES["loss"], "epsilon": 1.5, **SECRETS})
    (folder / "trainer_state.json").write_text(json.dumps(state))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics.update(before=SCORES, after=SCORES, train_seconds=SECRETS["train_runtime"], peak_memory_gib=55.4321)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "examples.json").write_text(json.dumps([{"prompt": "SECRET", "expected": "SECRET", "after": "SECRET"}]))
    found = {"kind": "SECRET", "severity": "note", "message": "SECRET", "count": 1, "rows": []}
    (folder / "data.json").write_text(json.dumps({"splits": [], "findings": [found]}))
    return folder


def test_a_private_runs_report_holds_no_loss_time_memory_or_row(
    private: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = with_secrets(private, tmp_path / "run")
    said = reported(run, "--html", tmp_path / "r.html", out=tmp_path)
    everything = json.dumps(said) + capsys.readouterr().out + (tmp_path / "r.html").read_text()
    for secret in ("0.12345", "98765", "987,65", "55.43", "4567", "76 min", "0.76543", "0.5678", "SECRET"):
        # By itself: hashes, noise and drawings hold any four digits sooner or later.
        assert not re.search(rf"(?<![\w+/.]){re.escape(secret)}(?![\w+/])", everything), secret
    assert said["cost"] == {"runs": {}} and of(said["summary"], run)["scores"] == {}
    curves = of(said["curves"], run)
    assert curves["training_loss"] == [] and curves["evaluations"] == curves["before_and_after"] == {}
    assert len(of(said["curves"], run)["learning_rates"][0]) == 6, "rates are public"
    assert of(said["privacy"], run)["private"] and of(said["projected_grads"], run)["count"] == 6
    assert of(said["summary"], run)["train_again"] is None, "its noise and batches are nobody's to repeat"


def test_public_held_out_rows_of_a_private_run_are_shown_and_nothing_else(
    recipe: str, private: Path, tmp_path: Path
) -> None:
    promise = ["--dp_noise_multiplier", "1", "--dp_target_delta", "1e-5", "--dp_accountant", "rdp"]
    flags = ["--dp_eval_is_public", "--max_steps", "6", *promise, "--eval_strategy", "steps", "--eval_steps", "3"]
    train(["--config", recipe, "--output_dir", str(tmp_path / "made"), *flags])
    run = with_secrets(tmp_path / "made", tmp_path / "run")
    said = reported(run, out=tmp_path)
    assert of(said["summary"], run)["scores"]["after"] == SCORES and of(said["examples"], run)["examples"]
    assert [step for step, _ in of(said["curves"], run)["evaluations"]["accuracy"]] == [3, 6]
    assert of(said["curves"], run)["training_loss"] == [] and said["cost"] == {"runs": {}}


def test_shares_that_measured_a_clip_threshold_are_no_projected_gradients(recipe: str, tmp_path: Path) -> None:
    promise = ["--dp_noise_multiplier", "1", "--dp_target_delta", "1e-5", "--dp_accountant", "rdp"]
    flags = ["--max_steps", "6", *promise, "--dp_clip_quantile", "0.5", "--dp_clip_steps", "4"]
    train(["--config", recipe, "--output_dir", str(tmp_path / "run"), *flags])
    found = of(reported(tmp_path / "run", out=tmp_path)["projected_grads"], tmp_path / "run")
    scalars = [record.scalars[0] for record in ReplayLog.open(tmp_path / "run" / "zo_log").records[4:]]
    assert found["count"] == 2 and found["mean"] == pytest.approx(np.mean(scalars))


# --- secrets, size, speed -------------------------------------------------------------------------------------


def test_a_hub_token_is_in_no_file_that_may_be_published(recipe: str, tmp_path: Path) -> None:
    train(["--config", recipe, "--output_dir", str(tmp_path / "run"), "--max_steps", "1", "--hub_token", "hf_SECRET"])
    settings = tmp_path / "run" / "resolved_config.yaml"
    assert "hf_SECRET" not in settings.read_text() + (tmp_path / "run" / "README.md").read_text()
    settings.write_text(settings.read_text() + "hub_token: hf_SECRET\n")  # as an earlier zoft wrote it
    assert "hf_SECRET" not in json.dumps(reported(tmp_path / "run", out=tmp_path))


def test_twenty_thousand_steps_make_a_small_page_quickly(tmp_path: Path) -> None:
    model = zoft_linear(tmp_path / "run" / "zo_log")
    rng = np.random.default_rng(0)
    for step in range(1, 20_000):
        loss, slope, lr = (float(np.float32(x)) for x in (rng.random(), rng.normal(), 1.0 / step))
        model.append(StepRecord(step, loss, (slope,), (lr,)))
    model.close()
    begin = time.process_time()
    said = reported(tmp_path / "run", "--html", tmp_path / "r.html", out=tmp_path)
    assert time.process_time() - begin < 20.0
    assert of(said["projected_grads"], tmp_path / "run")["count"] == 20_000
    assert len((tmp_path / "r.html").read_bytes()) < 400_000
    assert len((tmp_path / "report.json").read_bytes()) < 150_000


def zoft_linear(path: Path) -> ReplayLog:
    """A log with one step, of a run in plain PyTorch."""
    import torch

    model = torch.nn.Linear(2, 1)
    optimizer = zoft.ZOOptimizer(model, lr=1e-3, config=zoft.ZOConfig(method="mezo"), log=path)
    optimizer.step(lambda: model(torch.ones(2)).square().sum())
    optimizer.close_log()
    return ReplayLog.open(path, to_append=True)


def test_the_same_runs_make_the_same_page(finished: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        report([str(finished), "--html", str(tmp_path / name)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_thinning_keeps_the_mean_and_the_ends() -> None:
    steps, values = np.arange(1.0, 6001.0), np.random.default_rng(0).random(6000)
    cut = windows(steps, values, mean)
    assert len(cut) == POINTS and np.mean([value for _, value in cut]) == pytest.approx(values.mean())
    assert cut[0] == pytest.approx((13.0, values[:25].mean()))
    points = list(zip(steps, values, strict=True))
    kept = thinned(points)
    assert len(kept) == POINTS and (kept[0], kept[-1]) == (points[0], points[-1])
    assert windows(steps[:3], values[:3], mean) == list(zip(steps[:3], values[:3], strict=True))
