"""``zoft-bench growth``: models of the size asked for, what fits alone is measured, and powers are fitted to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import zoft.bench.step.measure as measuring
from zoft.bench.step.growth import Point, exponent, plan, ratio, too_large
from zoft.bench.step.measure import Figures
from zoft.bench.step.shapes import grown_llama
from zoft.bench.step.workload import Workload
from zoft.cli.bench.growth import main
from zoft.errors import ConfigError
from zoft.reporting.growth import markdown

SMALL = Workload("shape:llama:0.5M", batch_size=2, length=8)


def figures(name: str, *, parameters: int, step: float, forward: float = 1.0, forwards: int | None = 2) -> Figures:
    work = {"forward_flops": 1, "forward_bytes": 1, "step_flops": 2, "step_bytes": 3}
    return Figures(name, parameters, parameters, forwards, step, forward, [step], 1.0, None, None, **work)


@pytest.mark.parametrize(("size", "count"), [("0.5M", 5e5), ("10M", 1e7), ("100M", 1e8), ("1B", 1e9)])
def test_a_grown_llama_has_about_the_parameters_asked_for(size: str, count: float) -> None:
    model = Workload(f"shape:llama:{size}").describe("full")
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(count, rel=0.1)


def test_larger_llamas_are_wider_and_deeper() -> None:
    shapes = [grown_llama(size) for size in ("10M", "30M", "100M", "300M", "1B", "3B")]
    for key in ("hidden_size", "num_hidden_layers"):
        of = [shape[key] for shape in shapes]
        assert of == sorted(set(of))


@pytest.mark.parametrize(
    ("size", "message"),
    [("10", "such as 30M, got '10'"), ("x", "such as 30M"), ("0M", "the smallest has"), ("10K", "the smallest has")],
)
def test_a_size_that_is_none_is_refused(size: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(SMALL, ["mezo"], [size], [1])


def test_models_grow_on_one_batch_and_batches_on_one_model() -> None:
    points = plan(SMALL, ["mezo", "sgd"], ["1M", "2M"], [1, 4])
    assert [(p.along, p.name, p.workload.model, p.workload.batch_size) for p in points] == [
        ("parameters", "mezo", "shape:llama:1M", 2),
        ("parameters", "sgd", "shape:llama:1M", 2),
        ("parameters", "mezo", "shape:llama:2M", 2),
        ("parameters", "sgd", "shape:llama:2M", 2),
        ("tokens", "mezo", "shape:llama:0.5M", 1),
        ("tokens", "sgd", "shape:llama:0.5M", 1),
        ("tokens", "mezo", "shape:llama:0.5M", 4),
        ("tokens", "sgd", "shape:llama:0.5M", 4),
    ]


def test_what_does_not_fit_is_said_with_both_figures() -> None:
    point = Point("parameters", "mezo:stream", SMALL)
    assert too_large(point, 2**40) is None
    reason = too_large(point, 2**28)
    assert reason is not None and "may need 0.5 GiB" in reason and "there are 0.2 GiB" in reason


def test_an_exponent_is_that_of_a_power_law() -> None:
    assert exponent([1, 10, 100], [3.0, 30.0, 300.0]) == pytest.approx(1.0)
    assert exponent([4, 16], [2.0, 4.0]) == pytest.approx(0.5)
    assert exponent([1, 10, 100], [1.0, 100.0, 100.0]) == pytest.approx(1.0)  # least squares: rises by 2 and by 0
    assert exponent([7, 7], [1.0, 2.0]) is None


def test_a_ratio_is_to_the_forwards_that_a_step_is_worth() -> None:
    assert ratio(figures("mezo", parameters=1, step=5.0, forward=2.0)) == 1.25
    assert ratio(figures("sgd", parameters=1, step=9.0, forward=2.0, forwards=None)) == 1.5  # gradients: three


def test_tables_say_how_time_grows() -> None:
    one: dict[str, Any] = {"along": "tokens", "name": "mezo", "parameters": 5000, "forwards": 2, "ratio": 1.25}
    one |= {"workload": {"batch_size": 2, "length": 8}, "step_seconds": 2.5, "forward_seconds": 1.0}
    text = markdown([one], [{"along": "tokens", "name": "mezo", "step": 0.951, "forward": 1.0}])
    assert "| mezo | 5,000 | 2 x 8 | 2.500 s | 1.000 s | 2 | 1.250 |" in text
    assert "mezo: a step's time grows as tokens^0.95, a forward's as ^1.00" in text
    assert "grows" not in markdown([one], [{"along": "tokens", "name": "mezo", "step": None, "forward": None}])


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let measuring return made-up figures; return what was measured."""
    calls: list[str] = []

    def measure(workload: Workload, name: str, rounds: int) -> Figures:
        calls.append(f"{name} {workload.model} {workload.batch_size}")
        parameters = {"0.5M": 5 * 10**5, "2M": 2 * 10**6}[workload.model.rpartition(":")[2]]
        seconds = parameters * workload.tokens / 1e6
        return figures(name, parameters=parameters, step=2.2 * seconds, forward=seconds)

    monkeypatch.setattr(measuring, "measure", measure)
    return calls


FLAGS = ["--model", SMALL.model, "--batch_size", "2", "--length", "8", "--batch_sizes", "1", "2", "--device", "cpu"]


def test_the_command_writes_table_json_and_plot(
    measured: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*FLAGS, "--contenders", "mezo:stream", "--sizes", "0.5M", "2M", "1B", "--memory", "3GiB"]
    main([*flags, "--output_dir", str(tmp_path)])
    said = capsys.readouterr()
    assert "without mezo:stream, shape:llama:1B, 2 x 8 tokens: it may need" in said.err
    assert "measuring 4/4: mezo:stream, shape:llama:0.5M, 2 x 8 tokens" in said.err
    assert measured == [  # 2 rows of the smallest model lie on both ways, and are measured once
        "mezo:stream shape:llama:0.5M 2",
        "mezo:stream shape:llama:2M 2",
        "mezo:stream shape:llama:0.5M 1",
    ]
    assert "grows as tokens^1.00" in said.out and "grows as parameters^1.00" in said.out
    content = json.loads((tmp_path / "growth.json").read_text())
    assert [one["ratio"] for one in content["results"]] == pytest.approx([1.1] * 4)
    assert [one["workload"]["model"] for one in content["refused"]] == ["shape:llama:1B"]
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_that_fits_is_an_error(measured: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*FLAGS, "--sizes", "0.5M", "--memory", "100MiB"])
    assert "nothing of this fits into memory" in capsys.readouterr().err
    assert not measured
