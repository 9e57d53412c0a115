"""``zoft-bench step``: what is called a step is one, beside forwards that do the same work, in a process of its own."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from zoft.bench.step.contenders import DEFAULT, contender
from zoft.bench.step.measure import Figures, _joules_per, _measure
from zoft.bench.step.roofline import Ceilings
from zoft.bench.step.workload import SHAPES, Workload
from zoft.cli.bench.step import main
from zoft.errors import ConfigError
from zoft.reporting.step import markdown

SMALL = {"model": "shape:tiny", "batch_size": 2, "length": 8}
VOCABULARY = 64


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        SHAPES, "shape:tiny", {**SHAPES["shape:llama-10m"], "hidden_size": 16, "vocab_size": VOCABULARY}
    )


@pytest.mark.parametrize("name", [*DEFAULT, "lora/mezo*3:snapshot", "lora/fzoo*2:batched", "mezo:inplace"])
def test_every_contender_trains_what_it_says_and_forwards_change_nothing(name: str) -> None:
    model, loss = Workload(**SMALL).load(contender(name).train)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    contender(name).prepare(model, loss)()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    trained = {key for key, value in model.named_parameters() if value.requires_grad}
    assert changed <= trained
    assert bool(changed) == (name != "forward")


@pytest.mark.parametrize(
    "name", ["mezo:stream", "fzoo:stream", "as-written", "lora/mezo*3:snapshot", "lora/fzoo*2:batched"]
)
def test_a_step_takes_the_forwards_that_it_is_said_to_need(name: str) -> None:
    chosen = contender(name)
    model, loss = Workload(**SMALL).load(chosen.train)
    calls: list[int] = []

    def counted() -> torch.Tensor:
        calls.append(1)
        return loss()

    step = chosen.prepare(model, counted)
    step()  # the first proves the placement
    calls.clear()
    step()
    assert len(calls) == chosen.forwards


@pytest.mark.parametrize("loss", ["label", "lm", "own"])
def test_losses_are_those_of_their_definition(loss: str) -> None:
    model, value = Workload(**SMALL, loss=loss).load("full")
    ids = torch.randint(VOCABULARY, (2, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        if loss != "label":
            expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        else:
            expected = -logits[:, -1, [5, 6]].log_softmax(-1)[:, 0].mean()
        torch.testing.assert_close(value(), expected)


def test_figures_are_those_of_the_workload() -> None:
    got = _measure(SMALL, "mezo:stream", 2)
    assert got["forwards"] == 2 and len(got["step_seconds_all"]) == 2
    assert got["tokens_per_second"] == pytest.approx(16 / got["step_seconds"])
    assert got["peak_bytes"] is None or got["peak_bytes"] > 4 * got["trained"]


def test_ratios_are_to_the_forwards_that_a_step_needs() -> None:
    one: dict[str, Any] = {"name": "forward", "trained": 5, "forwards": 1, "step_seconds": 1.0, "forward_seconds": 1.0}
    rest: dict[str, Any] = {"tokens_per_second": 7.0, "peak_bytes": 2**20, "joules_per_step": None}
    rest["roofline"] = {"shortest_seconds": 0.8, "bound_by": "memory", "times_shortest": 3.75}
    two = {"name": "mezo", "trained": 5, "forwards": 2, "step_seconds": 3.0, "forward_seconds": 1.0}
    rows = markdown([{**one, **rest}, {**two, **rest, "peak_bytes": 3 * 2**20}]).splitlines()
    assert "| mezo | 5 | 3 s | 2 | 3.00 | 1.500 | 0.8 s, memory | 3.75 | 7 | 3 MiB = 3.000 x | - |" in rows


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mzo", "Did you mean 'mezo'"),
        ("adamw*3", "are for zeroth-order methods"),
        ("mezo:strem", "placement"),
        ("", "there is no contender"),
    ],
)
def test_an_unknown_contender_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contender(name)


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'shape:opt-13b'"):
        Workload(model="shape:opt-13")
    assert all(name.startswith("shape:") for name in SHAPES)


@pytest.mark.slow
def test_the_command_writes_table_json_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", "shape:llama-10m", "--batch_size", "1", "--length", "4", "--rounds", "1", "--device", "cpu"]
    main([*flags, "--contenders", "mezo:stream", "--output_dir", str(tmp_path)])
    assert "| mezo:stream |" in capsys.readouterr().out
    content = json.loads((tmp_path / "step.json").read_text())
    assert content["results"][0]["name"] == "mezo:stream" and content["environment"]["torch"]
    assert content["ceilings"]["flops_per_second"] > 0 < content["results"][0]["roofline"]["times_shortest"]
    for name in ("step.png", "roofline.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_energy_is_counted_over_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's counter stands still for longer than a short step takes."""
    used: list[int] = []
    monkeypatch.setattr("zoft.bench.step.measure.joules", lambda device: 100.0 + 3.0 * len(used))
    assert _joules_per(lambda: used.append(1), torch.device("cpu"), 20) == 3.0
    assert len(used) == 20
    monkeypatch.setattr("zoft.bench.step.measure.joules", lambda device: None)
    assert _joules_per(lambda: used.append(1), torch.device("cpu"), 20) is None


def test_a_way_of_training_that_does_not_fit_is_named_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(workload: Workload, name: str, rounds: int) -> Figures:
        if name in too_large:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Figures(**_measure(asdict(workload), name, rounds))

    monkeypatch.setattr("zoft.bench.step.measure.measure", measured)
    monkeypatch.setattr("zoft.bench.step.ceilings.measure_ceilings", lambda dtype, device: Ceilings(1e12, 1e11))
    flags = ["--model", "shape:tiny", "--batch_size", "2", "--length", "8", "--rounds", "1", "--device", "cpu"]
    too_large = {"adamw"}
    main([*flags, "--contenders", "forward", "adamw"])
    out, err = capsys.readouterr()
    assert "| forward |" in out and "| adamw |" not in out
    assert "without adamw: the memory of cpu is too small" in err
    too_large = {"forward", "adamw"}
    with pytest.raises(SystemExit):
        main([*flags, "--contenders", "forward", "adamw"])
    assert "none of this fits into memory" in capsys.readouterr().err
