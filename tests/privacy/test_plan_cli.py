"""``zoft-privacy plan`` and ``table``: their figures are Opacus's, and their settings zoft-train's."""

from __future__ import annotations

import json
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from opacus.accountants import create_accountant
from opacus.accountants.utils import get_noise_multiplier

from zoft.cli.privacy import main

SMALL = ["--num_examples", "1000", "--expected_batch_size", "50", "--steps", "100", "--dp_target_delta", "1e-5"]


def planned(*flags: str, out: Path) -> dict[str, Any]:
    main(["plan", *flags, "--json", str(out)])
    content: dict[str, Any] = json.loads(out.read_text())["privacy_plan"]
    return content


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def opacus_noise(target: float, rate: float, steps: int, accountant: str) -> float:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Optimal order is the largest alpha")
        return float(
            get_noise_multiplier(
                target_epsilon=target, target_delta=1e-5, sample_rate=rate, steps=steps, accountant=accountant
            )
        )


def cost(accountant: str, multiplier: float, rate: float, steps: int) -> float:
    counted = create_accountant(accountant)
    counted.history = [(multiplier, rate, steps)]
    return float(counted.get_epsilon(delta=1e-5))


def test_noise_and_costs_are_opacus_s_by_both_accountants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = planned(*SMALL, "--dp_target_epsilon", "2", out=tmp_path / "p.json")
    for accountant, of in content["by_accountant"].items():
        multiplier = opacus_noise(2.0, 0.05, 100, accountant)
        assert of["noise_multiplier"] == multiplier
        assert of["epsilon"] == pytest.approx(cost(accountant, multiplier, 0.05, 100), rel=1e-12)
    assert list(content["by_accountant"]) == ["prv", "rdp"]
    own = content["plan"]["noise_multiplier"]
    assert own == content["by_accountant"]["prv"]["noise_multiplier"]
    for row in content["epsilon_over_steps"]:
        for accountant in ("prv", "rdp"):
            assert row[accountant] == pytest.approx(cost(accountant, own, 0.05, row["steps"]), rel=1e-12)
    assert [row["steps"] for row in content["epsilon_over_steps"]] == [20, 40, 60, 80, 100]
    said = capsys.readouterr().out
    assert f"| prv | {own:.4g} | " in said and "add/remove" in said and "Poisson, rate 0.05" in said


def test_the_noise_of_a_mean_slope_is_sigma_c_over_b(tmp_path: Path) -> None:
    flags = ["--dp_noise_multiplier", "3", "--dp_clip_threshold", "0.5", "--num_scalars", "4"]
    content = planned(*SMALL, *flags, out=tmp_path / "p.json")
    assert content["noise_std"] == pytest.approx(3 * 0.5 / 50)
    assert content["most_signal_to_noise"] == pytest.approx(50 / (3 * 4**0.5))
    assert content["by_accountant"]["rdp"]["epsilon"] == pytest.approx(cost("rdp", 3.0, 0.05, 100))


def test_the_laplace_mechanism_is_accounted_in_one_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--dp_target_epsilon", "2", "--dp_mechanism", "laplace", "--zo_method", "mezo"]
    content = planned(*SMALL[:-2], *flags, out=tmp_path / "p.json")
    assert list(content["by_accountant"]) == ["pure epsilon"]
    assert content["by_accountant"]["pure epsilon"]["epsilon"] == pytest.approx(2.0)
    scale = content["plan"]["noise_multiplier"]
    assert content["noise_std"] == pytest.approx(2**0.5 * scale / 50)
    assert "(pure: no delta)" in capsys.readouterr().out


RECIPE = """
zo_method: mezo
zo_num_queries: 4
dataset: rows.jsonl
max_train_samples: 800
per_device_train_batch_size: 4
gradient_accumulation_steps: 5
max_steps: 30
dp_target_epsilon: 3
dp_noise_multiplier: 2
dp_target_delta: 1e-5
dp_accountant: rdp
"""


def test_a_training_recipe_is_planned_and_flags_win(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    plan = planned("--config", str(recipe), out=tmp_path / "p.json")["plan"]
    facts = ("num_examples", "expected_batch_size", "steps", "num_scalars")
    assert [plan[name] for name in facts] == [800, 20, 30, 4]
    assert plan["config"]["dp_target_epsilon"] == 3.0 and plan["config"]["dp_accountant"] == "rdp"
    plan = planned("--config", str(recipe), "--num_examples", "400", "--max_steps", "60", out=tmp_path / "p.json")[
        "plan"
    ]
    assert [plan[name] for name in facts] == [400, 20, 60, 4]
    recipe.write_text(RECIPE.replace("max_steps: 30", "num_train_epochs: 2"))
    assert planned("--config", str(recipe), out=tmp_path / "p.json")["plan"]["steps"] == 80  # twice 800 / 20


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([*SMALL, "--dp_target_epsilom", "2"], "Did you mean '--dp_target_epsilon'"),
        (SMALL[:-2], "there is nothing to plan: give a budget"),
        ([*SMALL[:-2], "--dp_target_epsilon", "2"], "dp_target_delta is missing"),
        ([*SMALL[2:], "--dp_target_epsilon", "2"], "num_examples is missing"),
        ([*SMALL, "--dp_target_epsilon", "2", "--expected_batch_size", "2000"], "between 1 and the number of examples"),
        ([*SMALL, "--dp_target_epsilon", "2", "--steps", "0"], "steps must be >= 1, got 0"),
        ([*SMALL, "--dp_target_epsilon", "1e-6", "--dp_accountant", "rdp"], "dp_target_epsilon=1e-06"),
        ([*SMALL, "--dp_target_epsilon", "2", "--zo_method", "grzo"], "cannot be private"),
    ],
)
def test_what_cannot_be_planned_is_said(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capsys, "plan", *flags)


def test_an_unknown_key_of_a_recipe_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.yaml").write_text("dp_target_epsilom: 2\n")
    assert "Did you mean 'dp_target_epsilon'" in refused(capsys, "plan", "--config", str(tmp_path / "r.yaml"))


AXES = [
    "--steps",
    "50",
    "100",
    "--expected_batch_size",
    "10",
    "50",
    "--dp_target_epsilon",
    "1",
    "8",
    "--dp_accountant",
    "rdp",
]


def test_every_entry_of_a_table_is_opacus_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--num_examples", "1000", "--dp_target_delta", "1e-5", *AXES, "--json", str(tmp_path / "t.json")]
    main(["plan", "--table", *flags])
    said = capsys.readouterr().out
    entries = json.loads((tmp_path / "t.json").read_text())["noise_multipliers"]["entries"]
    assert [(e["steps"], e["expected_batch_size"], e["target_epsilon"]) for e in entries] == list(
        product((50, 100), (10, 50), (1.0, 8.0))
    )
    for entry in entries:
        rate = entry["expected_batch_size"] / 1000
        multiplier = opacus_noise(entry["target_epsilon"], rate, entry["steps"], "rdp")
        assert entry["noise_multiplier"] == multiplier
        assert entry["noise_std_over_clip_threshold"] == pytest.approx(multiplier / entry["expected_batch_size"])
    first, last = entries[0], entries[1]
    row = f"| 50 | 10 | {first['noise_multiplier']:.3f} ({first['noise_std_over_clip_threshold']:.3g}) | "
    assert row + f"{last['noise_multiplier']:.3f} " in said


def test_table_is_a_command_and_a_flag_of_plan(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--num_examples", "100", "--dp_target_delta", "1e-3", "--dp_accountant", "rdp"]
    flags += ["--steps", "5", "--expected_batch_size", "10", "--dp_target_epsilon", "4"]
    main(["plan", *flags[:2], "--table", *flags[2:]])
    said = capsys.readouterr().out
    assert "| 5 | 10 | " in said
    main(["table", *flags])
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dp_target_delta", "1e-5"], "num_examples is missing"),
        (["--num_examples", "100"], "dp_target_delta is missing"),
        (["--num_examples", "100", "--dp_target_delta", "1e-5", "--step", "5"], "Did you mean '--steps'"),
    ],
)
def test_what_cannot_be_tabulated_is_said(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capsys, "table", *flags)


def test_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in ("plan", "table", "report"))
