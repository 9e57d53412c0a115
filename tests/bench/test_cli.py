"""``zoft-bench methods`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoft.bench.store import Store
from zoft.cli.bench import main

RECIPE = """
name: tiny
problems:
  cancer: {kind: tabular, dataset: breast_cancer}
methods: [mezo, fo_sgd, so_lbfgs]
budget_forwards: 20
evaluations: 2
seeds: [0, 1]
lr_points: 3
lr_max_extensions: 1
lr_sensitivity: [2]
zo_placement: snapshot
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    return "tiny.yaml"


def test_a_suite_runs_resumes_and_is_guarded(
    recipe: str, inline: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["methods", "--config", recipe, "--write_golden", "golden.json"])
    folder = tmp_path / "bench-tiny"
    assert {path.name for path in folder.iterdir()} == {
        "runs",
        "summary.md",
        "summary.json",
        "runs.parquet",
        "cancer.png",
    }
    first = capsys.readouterr().out
    assert (folder / "summary.md").read_text().strip() in first
    monkeypatch.setattr("zoft.bench.runner.attempt", lambda run: pytest.fail(f"{run} was made again"))
    main(["methods", "--config", recipe, "--golden", "golden.json"])
    assert "the results are the golden ones, within tolerance" in capsys.readouterr().out
    main(["methods", "--config", recipe, "--summary", "--only", "mezo", "fo_sgd"])
    assert "so_lbfgs" not in capsys.readouterr().out
    main(["methods", "--config", recipe, "--dry_run"])
    assert "cancer: nothing left to run" in capsys.readouterr().out

    expected = json.loads((tmp_path / "golden.json").read_text())
    expected["problems"]["cancer"]["mezo"] |= {"test_loss": 0.1, "half_width": 0.0}
    (tmp_path / "golden.json").write_text(json.dumps(expected))
    with pytest.raises(SystemExit) as ended:
        main(["methods", "--config", recipe, "--golden", "golden.json"])
    assert ended.value.code == 1
    assert "cancer: the test loss of mezo is 0." in capsys.readouterr().err


def test_failed_runs_end_in_an_error_and_damaged_results_and_golden_files_are_named(
    recipe: str, inline: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["methods", "--config", recipe, "--only", "so_lbfgs", "--reference", "so_lbfgs"]

    def ends(*flags: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main([*command, *flags])
        assert ended.value.code in (1, 2)
        return capsys.readouterr().err

    with monkeypatch.context() as patch:
        patch.setattr("zoft.bench.execute.execute", lambda run: 1 / 0)
        assert "2 runs failed, and are made again next time; the first: " in ends()
    (tmp_path / "other.json").write_text("{}")
    assert "other.json is no golden summary" in ends("--golden", "other.json")
    main(command)
    broken = next((tmp_path / "bench-tiny" / "runs").glob("*.json"))
    broken.write_text(broken.read_text()[:20])
    assert f"{broken.name} is damaged" in ends()
    broken.unlink()
    main(command)


def test_a_dry_run_says_how_much_there_is_and_writes_nothing(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["methods", "--config", recipe, "--dry_run", "--jobs", "1"])
    printed = capsys.readouterr().out
    assert "cancer: 20 runs of 20 forwards" in printed and "3 methods, 20 runs, 400 forwards" in printed
    assert not (tmp_path / "bench-tiny").exists()


def test_a_dry_run_may_go_by_a_method_whose_rate_is_measured(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    measured = "reference: auto\nsettings: {auto: {method: mezo, zo_lr: auto}}\n"
    Path(recipe).write_text(RECIPE.replace("[mezo,", "[auto,") + measured)
    main(["methods", "--config", recipe, "--dry_run", "--jobs", "1"])
    assert "as fast as auto" in capsys.readouterr().out


def test_flags_win_over_the_recipe(recipe: str, inline: None, tmp_path: Path) -> None:
    main(["methods", "--config", recipe, "--only", "so_lbfgs", "--seeds", "5", "--output_dir", "out"])
    assert [r["run"]["seed"] for r in Store(tmp_path / "out").read().values()] == [5]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods", "mzo"], "methods: mzo: there is no method 'mzo'. Did you mean 'mezo'"),
        (["--only", "fzo"], "only: 'fzo' is not in the suite"),
        (["--jobs", "0"], "jobs must be an integer >= 1, got 0"),
        (["--summary"], "holds no results of this suite"),
        (["--budget_forward", "3"], "unknown flag '--budget_forward'. Did you mean '--budget_forwards'"),
        (["--golden", "none.json"], "golden: none.json cannot be read"),
    ],
)
def test_mistakes_are_named_before_anything_runs(
    flags: list[str], message: str, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["methods", "--config", recipe, *flags])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_unknown_keys_of_a_recipe_are_refused(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(recipe).write_text(RECIPE + "budget: 3\n")
    with pytest.raises(SystemExit):
        main(["methods", "--config", recipe])
    assert "tiny.yaml: unknown key 'budget'." in capsys.readouterr().err


def test_the_command_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    assert "methods" in capsys.readouterr().out
