"""``zoft-privacy audit``: results, an exit code that a script can go by, and errors before the work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from zoft import ZOConfig, ZOOptimizer
from zoft.cli.privacy import main
from zoft.privacy import PrivacyConfig, PrivacyPlan, mechanism

QUICK = ["--dp_target_delta", "1e-5", "--steps", "3", "--draws", "400", "--runs", "100", "--confidence", "0.9999999"]
PLAN = ["--dp_noise_multiplier", "2", "--sample_rate", "0.05"]


def test_each_audit_is_printed_beside_its_claim(capsys: pytest.CaptureFixture[str]) -> None:
    main(["audit", *QUICK, *PLAN])
    said = capsys.readouterr().out.splitlines()
    assert "sampling rate 0.05 (1 of 20 examples a step), 3 steps" in said[0]
    assert [line.split(":")[0] for line in said[1:] if not line.startswith(" ")] == [
        "one release, saturating canary",
        "one release, huge canary",
        "one release, nan canary",
        "one release, saturating canary, public seeds known",
        "a run of 3 releases, saturating canary",
        "consistent with the promise (all audits together",
    ]
    assert sum("claimed 1.993: consistent" in line for line in said) == 4


def test_a_violation_is_exit_code_one_and_a_file_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanism, "noised", lambda total, kind, scale: list(total))
    sizes = ["--dp_noise_multiplier", "2", "--num_examples", "64", "--expected_batch_size", "16"]
    with pytest.raises(SystemExit) as caught:
        main(["audit", *QUICK, *sizes, "--json", str(tmp_path / "audit.json")])
    assert caught.value.code == 1
    content = json.loads((tmp_path / "audit.json").read_text())
    assert content["is_violation"] and content["plan"]["num_examples"] == 64
    release, *_ = content["audits"]
    assert release["is_violation"] and release["bounds"][0]["measured"] > release["bounds"][0]["claimed"] > 1.9
    assert {a["subject"]: a["is_violation"] for a in content["audits"]}["one release, nan canary"] is False
    assert release["confidence"] == pytest.approx(1.0 - 1e-7 / len(content["audits"]))


def test_the_plan_of_a_run_is_read_from_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = PrivacyConfig(dp_noise_multiplier=3.0, dp_target_delta=1e-3)
    plan = PrivacyPlan.of(config, num_examples=100, expected_batch_size=10, steps=3)
    ZOOptimizer(torch.nn.Linear(1, 1), 0.1, ZOConfig("mezo"), privacy=plan, log=tmp_path / "private").close_log()
    main(["audit", "--log", str(tmp_path / "private"), *QUICK[-6:]])
    assert capsys.readouterr().out.startswith(str(plan))

    ZOOptimizer(torch.nn.Linear(1, 1), 0.1, log=tmp_path / "open").close_log()
    with pytest.raises(SystemExit):
        main(["audit", "--log", str(tmp_path / "open")])
    assert "is not private" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "3"], "give a budget (dp_target_epsilon) or noise"),
        ([*QUICK, "--dp_noise_multiplier", "1"], "num_examples is missing"),
        ([*QUICK, *PLAN, "--num_examples", "3"], "give it, or these two"),
        ([*QUICK, *PLAN, "--sample_rate", "2"], "sample_rate must be a number in (0, 1], got '2'"),
        ([*QUICK, *PLAN, "--sample_rat", "2"], "Did you mean '--sample_rate'"),
        ([*QUICK, *PLAN, "--log", "run/zo_log"], "--log says what the plan is; leave out --dp_target_delta"),
        ([*QUICK, *PLAN, "--confidence", "95"], "confidence must be in (0, 1), got 95"),
    ],
)
def test_what_is_wrong_is_said_before_the_work(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["audit", *flags])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_training_recipe_is_audited_as_it_would_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "private.yaml"
    recipe.write_text(
        "model_name_or_path: somewhere\nmax_train_samples: 320\nper_device_train_batch_size: 16\nmax_steps: 3\n"
        "zo_num_queries: 4\ndp_noise_multiplier: 2\ndp_target_delta: 1e-5\n"
    )
    main(["audit", "--config", str(recipe), "--draws", "100", "--runs", "50"])
    said = capsys.readouterr().out
    assert "16 of 320 examples a step), 3 steps, clip threshold 2;" in said
    assert "a run of 3 releases" in said


def test_the_command_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    assert "audit" in capsys.readouterr().out
