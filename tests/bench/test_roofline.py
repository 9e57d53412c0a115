"""Rooflines: what a step must do is counted, what the machine can do is measured, and the rest is arithmetic."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from zoft.bench.step.ceilings import _product_rate, copy_rate
from zoft.bench.step.contenders import contender
from zoft.bench.step.counted import count_forward
from zoft.bench.step.measure import _measure
from zoft.bench.step.roofline import Ceilings, Work, bound, step_work
from zoft.bench.step.shapes import SHAPES
from zoft.bench.step.workload import Workload
from zoft.reporting.roofline import ceilings_line, plot

ROWS, LENGTH = 2, 32
SMALL = {"model": "shape:tiny", "batch_size": ROWS, "length": LENGTH}
HIDDEN, LAYERS, VOCABULARY = 16, 8, 128
FLOAT = 4


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {**SHAPES["shape:llama-10m"], "hidden_size": HIDDEN, "vocab_size": VOCABULARY}
    monkeypatch.setitem(SHAPES, "shape:tiny", shape)
    monkeypatch.setitem(SHAPES, "shape:tied", {**shape, "tie_word_embeddings": True})


# --- arithmetic -------------------------------------------------------------------------------------------


def test_the_slower_of_arithmetic_and_memory_binds() -> None:
    ceilings = Ceilings(flops_per_second=100.0, bytes_per_second=10.0)
    memory = bound(Work(flops=200, bytes=40), ceilings, seconds=6.0)  # 2 s of arithmetic, 4 s of memory
    assert (memory.shortest_seconds, memory.bound_by, memory.times_shortest) == (4.0, "memory", 1.5)
    assert (memory.flops_per_byte, memory.flops_per_second) == (5.0, pytest.approx(200 / 6))
    arithmetic = bound(Work(flops=1000, bytes=40), ceilings, seconds=12.5)  # 10 s, 4 s
    assert (arithmetic.shortest_seconds, arithmetic.bound_by, arithmetic.times_shortest) == (10.0, "arithmetic", 1.25)


def test_a_step_is_its_forwards_and_what_it_writes_once() -> None:
    forward = Work(flops=7, bytes=100)
    assert step_work(forward, forwards=2, weight_reads=2, written=80) == Work(14, 280)
    assert step_work(forward, forwards=None, weight_reads=2, written=160) == Work(21, 360)  # by gradients
    assert step_work(forward, forwards=1, weight_reads=1, written=0) == forward


def test_of_two_measurements_the_higher_ceilings_count() -> None:
    assert Ceilings(3.0, 5.0).or_higher(Ceilings(4.0, 2.0)) == Ceilings(4.0, 5.0)


# --- counting ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["lm", "label"])
def test_a_forward_is_two_flops_a_weight_and_token_and_attention(loss: str) -> None:
    model, value = Workload(**SMALL, loss=loss).load("full")
    layers = sum(p.numel() for name, p in model.named_parameters() if ".layers." in name and p.dim() == 2)
    scored = ROWS * (LENGTH if loss == "lm" else 1)  # places that reach the output layer
    attention = LAYERS * ROWS * 2 * 2 * LENGTH**2 * HIDDEN  # queries by keys, and these by values
    expected = 2 * layers * ROWS * LENGTH + 2 * HIDDEN * VOCABULARY * scored + attention
    value()
    assert count_forward(model, value).flops == pytest.approx(expected, rel=0.02)


def test_a_forward_reads_every_weight_once_and_of_the_embedding_only_rows() -> None:
    workload = Workload(**{**SMALL, "batch_size": 1, "length": 8})
    model, value = workload.load("full")
    rest = sum(p.nbytes for name, p in model.named_parameters() if "embed_tokens" not in name)
    rows = workload.tokens * HIDDEN * FLOAT
    assert count_forward(model, value).bytes == pytest.approx(rest + rows, abs=64)  # and the rotary frequencies


def test_a_table_that_is_also_the_output_layer_is_read_once() -> None:
    model, value = Workload(**{**SMALL, "model": "shape:tied"}, loss="lm").load("full")
    assert count_forward(model, value).bytes == pytest.approx(sum(p.nbytes for p in model.parameters()), abs=64)


@pytest.mark.parametrize(
    ("name", "reads", "times_written"),
    [
        ("forward", 1, 0),
        ("mezo:stream", 2, 1),
        ("as-written", 2, 1),
        ("fzoo*3:snapshot", 4, 1),
        ("adam:stream", 2, 3),  # and two moments
        ("forward_grad", 1, 1),  # a pass with tangents does the work of two
        ("lora/fzoo*8:batched", 1, 1),
        ("sgd", 2, 2),  # gradients and weights
        ("adamw", 2, 4),  # and two moments
    ],
)
def test_what_a_way_of_training_reads_and_writes_at_least(name: str, reads: int, times_written: int) -> None:
    chosen = contender(name)
    model, _ = Workload(**SMALL).load(chosen.train)
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    assert (chosen.weight_reads, chosen.written_bytes(model)) == (reads, times_written * trained)


def test_measured_figures_hold_the_work_of_a_step() -> None:
    got = _measure(SMALL, "mezo:stream", 1)
    assert got["step_flops"] == 2 * got["forward_flops"]
    assert got["step_bytes"] == 2 * got["forward_bytes"] + FLOAT * got["trained"]
    assert got["parameters"] == got["trained"]


# --- the machine ------------------------------------------------------------------------------------------


def test_ceilings_are_rates_of_this_machine() -> None:
    cpu = torch.device("cpu")
    assert 1e6 < _product_rate(torch.float32, cpu, (64, 128)) < 1e15
    assert 1e6 < copy_rate(cpu, 2**20) < 1e14


def test_plot_and_line_say_what_the_machine_can_do(tmp_path: Path) -> None:
    ceilings = Ceilings(200e9, 20e9)
    results = [
        {"name": name, "roofline": asdict(bound(Work(flops, 10**9), ceilings, 1.0))}
        for name, flops in (("forward", 10**9), ("mezo", 10**11))
    ]
    plot(results, asdict(ceilings), "a title", tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")
    assert ceilings_line(asdict(ceilings)) == (
        "at most 200.0 GFLOP/s (a large product), 20.0 GB/s (a large copy): below 10.0 FLOPs a byte it is memory that "
        "binds"
    )
