"""``zoft-bench memory``: what is predicted without weights is what training takes with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from zoft.bench.memory.fitting import largest_batch, size_in_bytes
from zoft.bench.memory.measured import measure_peak
from zoft.bench.memory.predicted import predict
from zoft.bench.memory.tracker import LiveTensors, pretending
from zoft.bench.meters import MemoryMeter
from zoft.bench.step.contenders import DEFAULT, contender
from zoft.bench.step.workload import SHAPES, Workload
from zoft.cli.bench.memory import main
from zoft.errors import ConfigError
from zoft.placement import ring, stream
from zoft.tasks import label_logits
from zoft.updates import elementwise

KIB, MIB = 2**10, 2**20
SMALL = {"model": "shape:small", "batch_size": 3, "length": 24}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose scratch is not most of its memory."""
    shape = {**SHAPES["shape:llama-10m"], "hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 999}
    monkeypatch.setitem(SHAPES, "shape:small", shape)
    monkeypatch.setattr(ring, "_CPU_RING_BYTES", 16 * KIB)
    monkeypatch.setattr(stream, "_CPU_BLOCK_BYTES", 40 * KIB)
    monkeypatch.setattr(elementwise, "block_size", lambda device: 2**11)
    monkeypatch.setattr(label_logits, "ROWS", 24)
    monkeypatch.setattr(label_logits, "_SHARE", 0)


# --- following tensors ---------------------------------------------------------------------------------


def test_a_peak_is_what_was_alive_at_once() -> None:
    with LiveTensors() as live:
        a = torch.zeros(1000)
        b = torch.zeros(3000)
        view = b.view(30, 100)
        del b  # the view still holds it
        assert (live.bytes, live.peak) == (16_000, 16_000)
        del view
        c = torch.zeros(500)
        assert (live.bytes, live.peak, live.largest) == (6_000, 16_000, 12_000)
        live.forget()
        c.add_(1.0)
        assert (live.bytes, live.peak, live.largest) == (6_000, 6_000, 0)
        del a
    assert live.bytes == 2_000


def test_pretended_weights_take_no_memory_and_ties_count_once() -> None:
    workload = Workload(model="shape:opt-30b", dtype="bfloat16", batch_size=1, length=8)
    meter = MemoryMeter(torch.device("cpu"))
    with pretending(workload.describe("full"), torch.device("cpu")) as live:
        hidden, layers, vocabulary, places = 7168, 48, 50272, 2050
        matrices = 12 * hidden * hidden + 13 * hidden  # of a layer, with its biases and norms
        assert live.bytes == 2 * ((vocabulary + places) * hidden + layers * matrices + 2 * hidden)
    grown = meter.extra_bytes()
    assert grown is None or grown < 200 * MIB


# --- predictions ---------------------------------------------------------------------------------------

QUICK = [
    ("forward", "label"),
    ("mezo:stream", "label"),
    ("mezo:stream", "lm"),
    ("mezo:snapshot", "label"),
    ("adam:stream", "label"),
    ("adamw", "lm"),
    ("lora/mezo", "label"),
    ("lora/fzoo*3:batched", "label"),
    ("mezo:batched", "label"),
]
MORE = [
    *DEFAULT,
    "lora/fzoo*3:batched",
    "mezo:batched",
    "mezo:inplace",
    "momentum:snapshot",
    "lozo_m:stream",
    "hizoo:stream",
    "lora/adam:stream",
]
SLOW = [(name, loss) for name in MORE for loss in ("label", "lm") if (name, loss) not in QUICK]


@pytest.mark.parametrize(("name", "loss"), [*QUICK, *(pytest.param(*one, marks=pytest.mark.slow) for one in SLOW)])
def test_a_prediction_is_what_real_steps_hold(name: str, loss: str) -> None:
    workload = Workload(**SMALL, loss=loss)  # type: ignore[arg-type]
    predicted = predict(workload, name)
    with LiveTensors() as live:
        model, closure = workload.load(contender(name).train)
        step = contender(name).prepare(model, closure)
        step()  # proves the placement
        live.forget()
        step()
        step()
    # Beside it are blocks of noise, and tables of its values. What is made for all points is not all there at once.
    assert predicted.total == pytest.approx(live.peak, rel=0.15 if "batched" in name else 0.05)


def test_parts_are_those_of_the_definition() -> None:
    workload = Workload(**SMALL)  # type: ignore[arg-type]
    trained = predict(workload, "forward").trained
    bytes_of = {name: predict(workload, name) for name in ("mezo:snapshot", "mezo:inplace", "adam:stream", "adamw")}
    assert bytes_of["mezo:snapshot"].placement == 4 * trained
    assert bytes_of["mezo:inplace"].placement == 0
    assert bytes_of["adam:stream"].state == 8 * trained
    assert bytes_of["adamw"].gradients == 4 * trained
    assert bytes_of["adamw"].state == pytest.approx(8 * trained, rel=1e-3)
    halved = predict(Workload(**SMALL, dtype="bfloat16"), "adam:stream")  # type: ignore[arg-type]
    assert halved.state == bytes_of["adam:stream"].state, "a method's state is float32"
    assert halved.weights < 0.51 * bytes_of["adam:stream"].weights


@pytest.mark.parametrize(("name", "message"), [("forward_grad", "cannot be predicted"), ("mzo", "Did you mean 'mezo'")])
def test_what_cannot_be_predicted_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        predict(Workload(**SMALL), name)  # type: ignore[arg-type]


def test_a_model_without_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no configuration"):
        predict(Workload(model=str(tmp_path)), "forward")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["forward", "mezo:stream", "mezo:batched", "adam:stream", "lora/mezo"])
def test_a_prediction_is_what_a_process_grows_by(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the process has the real sizes
    workload = Workload(model="shape:llama-30m", batch_size=16, length=64)
    measured = measure_peak(workload, name)
    if measured is None:
        pytest.skip("memory cannot be measured here")
    assert 0.97 <= measured / predict(workload, name).total <= 1.25


# --- what fits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 99, 100, 101, 500, 999, 1000, 1001, 20_000])
@pytest.mark.parametrize("start", [1, 7, 1000])
def test_the_largest_batch_is_the_largest(limit: int, start: int) -> None:
    asked: list[int] = []

    def peak(batch: int) -> int:
        asked.append(batch)
        return max(90 + 10 * batch, 25 * batch - 40)  # where one thing overtakes another

    got = largest_batch(peak, limit, start)
    assert got == max(b for b in range(2000) if b == 0 or peak(b) <= limit)
    assert len(asked) - 1999 < 15


def test_the_largest_batch_is_found_where_rows_cost_nothing_at_first() -> None:
    assert largest_batch(lambda batch: max(1000, 10 * batch), 1005, 1) == 100


@pytest.mark.parametrize(("size", "expected"), [("24GiB", 24 * 2**30), ("1.5 GB", 1_500_000_000), ("512MiB", 2**29)])
def test_sizes_are_read(size: str, expected: int) -> None:
    assert size_in_bytes(size) == expected


@pytest.mark.parametrize("size", ["24", "24Gi", "GiB", "-1GiB", "24gib"])
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(ConfigError, match="memory must be a number with"):
        size_in_bytes(size)


# --- the command ---------------------------------------------------------------------------------------


def run(tmp_path: Path, *flags: str) -> dict[str, Any]:
    file = tmp_path / "memory.json"
    shape = ["--model", "shape:small", "--batch_size", "3", "--length", "24", "--device", "cpu"]
    main([*shape, "--output_file", str(file), *flags])
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def test_the_command_says_what_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    got = run(tmp_path, "--contenders", "mezo:stream", "adamw", "--memory", "3MiB")
    mezo, adamw = got["results"]
    assert mezo["fits"] and not adamw["fits"]
    assert mezo["largest_batch"] > 3 and adamw["largest_batch"] == 0
    largest = Workload(model="shape:small", batch_size=mezo["largest_batch"], length=24)
    assert predict(largest, "mezo:stream").total <= 3 * MIB
    table = capsys.readouterr().out.splitlines()
    assert any(line.startswith("| adamw |") and "| no | 0 |" in line for line in table)


@pytest.mark.slow
def test_the_command_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    got = run(tmp_path, "--contenders", "forward", "--measure", "--model", "shape:llama-10m")
    assert got["results"][0]["measured"] is None or got["results"][0]["measured"] > 0
    assert "/ predicted" in capsys.readouterr().out or got["results"][0]["measured"] is None
