"""``stream``: what is evaluated, that everything is reached, and that the scratch stays small."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import zoft
from tests.core.conftest import make, take_units
from tests.core.test_exactness import digest, optimizer
from zoft.directions import DenseDirections
from zoft.errors import PlacementError
from zoft.noise import Span, Term, run_key
from zoft.parameters import Trainable, select
from zoft.placement import SnapshotPlacement, StreamPlacement, ring
from zoft.placement import stream as stream_module
from zoft.placement.ring import aligned
from zoft.types import LossFn

TERMS = [Term(3, 0, 5e-2), Term(3, 1, -3e-2)]
DIRECTIONS = DenseDirections(run_key(0), "gaussian")


@pytest.fixture(params=["modules", "units"])
def taken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is perturbed at once; units, as on a GPU."""
    if request.param == "units":
        take_units(monkeypatch)
    return str(request.param)


def streamed(
    model: nn.Module, loss: LossFn, trainables: tuple[Trainable, ...], scratch_bytes: int = 2**26
) -> tuple[float, StreamPlacement]:
    placement = StreamPlacement(model, trainables, DIRECTIONS, scratch_bytes=scratch_bytes)
    with torch.no_grad(), placement.session(), placement.at(TERMS):
        return float(loss()), placement


def moved(loss: LossFn, trainables: tuple[Trainable, ...]) -> float:
    placement = SnapshotPlacement(trainables, DIRECTIONS)
    with torch.no_grad(), placement.session(), placement.at(TERMS):
        return float(loss())


def test_streamed_loss_is_the_loss_of_moved_weights(family: str, dtype: torch.dtype, taken: str) -> None:
    model, loss = make(family, dtype)
    model.eval()
    trainables = select(model)
    with torch.no_grad():
        clean = float(loss())
    expected = moved(loss, trainables)
    assert expected != clean
    assert streamed(model, loss, trainables)[0] == expected


def test_a_layers_weights_are_perturbed_in_one_call_if_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, loss = make("llama")
    model.eval()
    trainables = select(model)
    layer = sum(aligned(p.numel()) for p in model.model.layers[0].parameters()) * 4
    calls: list[int] = []
    combine = DenseDirections.combine

    def counted(self: DenseDirections, spans: list[Span], *args: Any, **kwargs: Any) -> None:
        calls.append(len(spans))
        combine(self, spans, *args, **kwargs)

    monkeypatch.setattr(DenseDirections, "combine", counted)

    def parts(unit_bytes: int) -> list[int]:
        monkeypatch.setattr(StreamPlacement, "unit_bytes", lambda self, device: unit_bytes)
        calls.clear()
        assert streamed(model, loss, trainables)[0] == expected
        return list(calls)

    expected = moved(loss, trainables)
    assert parts(layer) == [9, 9, 1, 1], "two layers, the last norm, the head; of the embedding, rows"
    assert parts(layer - 1) == [1, 4, 1, 3] * 2 + [1, 1], "norm, attention, norm and feed-forward of each layer"
    assert parts(0) == [1] * 20


def test_what_is_called_past_its_unit_is_perturbed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    take_units(monkeypatch)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.randn(3, 4)

    def loss() -> torch.Tensor:
        return (model(x) * model[0](x)).mean()

    trainables = select(model)
    assert streamed(model, loss, trainables)[0] == moved(loss, trainables)


class AroundUnit(nn.Module):
    """Calls a unit that it shares with another module, and may own one of its weights."""

    def __init__(self, unit: nn.Module, weight: nn.Parameter) -> None:
        super().__init__()
        self.unit, self.weight, self.large = unit, weight, nn.Parameter(torch.randn(4096))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.unit(x @ self.weight) + self.large.mean()


def test_a_unit_is_perturbed_whole_wherever_it_is_called_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the owner of a tied weight that is perturbed already, then elsewhere."""
    take_units(monkeypatch)
    unit = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    model = nn.Sequential(AroundUnit(unit, unit[0].weight), AroundUnit(unit, nn.Parameter(torch.randn(64, 64))))
    x = torch.randn(3, 64)

    def loss() -> torch.Tensor:
        return model(x).pow(2).mean()

    trainables = select(model)
    expected = moved(loss, trainables)
    placement = StreamPlacement(model, trainables, DIRECTIONS, scratch_bytes=(2 * 64 * 64 + 128) * 4)
    with torch.no_grad(), placement.session():
        for _ in range(2):
            with placement.at(TERMS):
                assert float(loss()) == expected
    assert unit in placement._units


def test_a_list_of_layers_is_no_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    take_units(monkeypatch)
    model, _ = make("llama")
    placement = StreamPlacement(model, select(model), DIRECTIONS, scratch_bytes=2**26)
    units = placement._found_units()
    assert units and not any(isinstance(unit, nn.ModuleList) for unit in units)


@pytest.mark.parametrize("step", [1, 2, 7, 20])
def test_an_interrupt_while_weights_come_back_loses_none(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    take_units(monkeypatch)
    model, loss = make("llama")
    trainables = select(model)
    placement = StreamPlacement(model, trainables, DIRECTIONS, scratch_bytes=2**26)
    own = [p.data_ptr() for p in model.parameters()]
    undone: list[int] = []
    undo = stream_module._Swap.undo

    def interrupted(swap: Any) -> None:
        undone.extend([1] * bool(swap.parameters))
        if swap.parameters and len(undone) == step:
            swap.parameters[0].data = swap.weights[0]
            raise KeyboardInterrupt
        undo(swap)

    monkeypatch.setattr(stream_module._Swap, "undo", interrupted)
    with contextlib.suppress(KeyboardInterrupt), torch.no_grad(), placement.session(), placement.at(TERMS):
        for _ in range(20):
            loss()
    assert len(undone) >= step
    assert [p.data_ptr() for p in model.parameters()] == own
    assert not placement._active and not placement._within and placement._depth == 0


@pytest.mark.parametrize("family_name", ["llama", "gpt2", "opt", "bert", "t5"])
def test_row_blocks_give_the_loss_of_whole_matrices(family_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, loss = make(family_name)
    model.eval()
    trainables = select(model)
    cap = 16 * 4 * 10  # ten rows of width 16
    monkeypatch.setattr(stream_module, "_CPU_BLOCK_BYTES", cap)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", zoft.ZoftWarning)  # GPT-2's Conv1D cannot be taken in blocks
        blocked = streamed(model, loss, trainables)[0]
    assert blocked == pytest.approx(moved(loss, trainables), abs=2e-6)


@pytest.fixture
def small_cap(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    cap = 64 * 4 * 16
    monkeypatch.setattr(stream_module, "_CPU_BLOCK_BYTES", cap)
    yield cap


def test_scratch_stays_under_its_cap(small_cap: int) -> None:
    model = nn.Sequential(nn.Embedding(1000, 64), nn.Linear(64, 64), nn.Linear(64, 1000))
    ids = torch.arange(20)

    def loss() -> torch.Tensor:
        return nn.functional.cross_entropy(model(ids), ids)

    trainables = select(model)
    value, placement = streamed(model, loss, trainables, scratch_bytes=small_cap)
    held = sum(r.buffer.numel() * r.buffer.element_size() for r in placement._rings.values())
    # Nested depths may each hold a buffer: biases below, a block of rows above.
    assert held <= small_cap + 1000 * 4 + 64 * 4
    assert value == pytest.approx(moved(loss, trainables), abs=2e-6)


def test_an_embedding_perturbs_only_the_rows_that_are_looked_up() -> None:
    model = nn.Embedding(10_000, 8)
    ids = torch.tensor([[5, 9_999], [5, 0]])
    placement = StreamPlacement(model, select(model), DIRECTIONS, scratch_bytes=2**26)
    with torch.no_grad(), placement.session(), placement.at(TERMS):
        rows = model(ids)
    with torch.no_grad():
        snapshot = SnapshotPlacement(select(model), DIRECTIONS)
        with snapshot.session(), snapshot.at(TERMS):
            expected = model(ids)
    assert torch.equal(rows, expected)
    assert not placement._rings


def test_an_id_outside_the_embedding_is_an_index_error() -> None:
    model = nn.Embedding(10, 4)
    placement = StreamPlacement(model, select(model), DIRECTIONS, scratch_bytes=2**26)
    for bad in (10, -1):
        with placement.session(), placement.at(TERMS), pytest.raises(IndexError, match="10 rows"):
            model(torch.tensor([bad]))


class Subclass(nn.Embedding):
    """Scales and shifts around the lookup, as Gemma's and OPT's embeddings do."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids + 2) * self.weight.shape[-1] ** 0.5


class ReadsWeightOtherwise(nn.Embedding):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(ids, self.num_embeddings).to(self.weight.dtype) @ self.weight


@pytest.mark.parametrize("kind", [Subclass, ReadsWeightOtherwise])
@pytest.mark.filterwarnings("ignore:.*perturbs weight whole:zoft.ZoftWarning")
def test_subclasses_that_use_the_matrix_their_own_way_are_right(kind: type[nn.Embedding]) -> None:
    model = kind(20, 8)

    def loss() -> torch.Tensor:
        return model(torch.arange(10)).pow(2).sum()

    trainables = select(model)
    assert streamed(model, loss, trainables)[0] == pytest.approx(moved(loss, trainables), rel=1e-6)


class ReturnsItsWeight(nn.Module):
    """A module whose output aliases its parameter: a learned prompt, a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self) -> torch.Tensor:
        return self.weight.view(2, 8)


def test_outputs_that_alias_the_scratch_are_not_overwritten(taken: str) -> None:
    model = nn.ModuleList([ReturnsItsWeight(), ReturnsItsWeight()])

    def loss() -> torch.Tensor:
        first, second = model[0](), model[1]()
        return (first * second).sum() + first.pow(3).sum()

    trainables = select(model)
    assert streamed(model, loss, trainables)[0] == moved(loss, trainables)


class Nested(nn.Module):
    """Owns a parameter itself, calls an owner inside, and shares that owner's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.weight = self.inner.weight
        self.gain = nn.Parameter(torch.ones(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x * self.gain) @ self.weight * self.gain


def test_a_parameter_shared_by_nested_owners_gets_one_z(taken: str) -> None:
    model, x = Nested(), torch.randn(3, 6)

    def loss() -> torch.Tensor:
        return model(x).pow(2).mean()

    trainables = select(model)
    assert len(trainables) == 3
    assert streamed(model, loss, trainables)[0] == moved(loss, trainables)


def encoder_layer() -> tuple[nn.Module, LossFn]:
    """Its fused path reads the children's weights without calling the children."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    x = torch.randn(2, 5, 16)
    return layer, lambda: layer(x).pow(2).mean() + layer(x).sin().mean()


def test_stream_refuses_a_model_that_it_does_not_reach_and_names_the_parameters() -> None:
    model, loss = encoder_layer()
    before = digest(model)
    with pytest.raises(PlacementError, match=r"linear1\.weight"):
        optimizer(model, "stream").step(loss)
    assert digest(model) == before


def test_auto_falls_back_to_snapshot_loudly() -> None:
    model, loss = encoder_layer()
    opt, exact = optimizer(model, "auto"), optimizer(model, "snapshot")
    with pytest.warns(zoft.ZoftWarning, match="falling back to placement 'snapshot'"):
        opt.step(loss)
    assert opt.engine.placement == "snapshot"
    exact.step(loss)
    assert opt.last_record == exact.last_record


def test_the_proof_notices_each_single_parameter_that_is_read_elsewhere() -> None:
    class Sly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(self.a(x), self.b.weight, self.b.bias)

    torch.manual_seed(0)
    model, x = Sly(), torch.randn(8, 4)
    with pytest.raises(PlacementError, match=r"b\.weight, b\.bias"):
        optimizer(model, "stream").step(lambda: model(x).pow(2).mean())


def test_a_zero_initialised_matrix_that_is_not_reached_is_noticed() -> None:
    class Sly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(300, 300), nn.Linear(300, 300, bias=False)
            nn.init.zeros_(self.b.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(self.a(x), self.b.weight) + self.a(x)

    torch.manual_seed(0)
    model, x = Sly(), torch.randn(2, 300)
    with pytest.raises(PlacementError, match=r"b\.weight"):
        optimizer(model, "stream").step(lambda: model(x).pow(2).mean())


def test_a_tied_head_that_is_read_without_being_called_is_noticed(dtype: torch.dtype) -> None:
    model, _ = make("gpt2", dtype)
    ids = torch.arange(3, 24).view(3, 7)

    def loss() -> torch.Tensor:
        """As a fused cross-entropy does: the head's module never runs, its weight does, as the embedding."""
        hidden = model.transformer(ids).last_hidden_state
        logits = (hidden @ model.lm_head.weight.t()).float()
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    before = digest(model)
    with pytest.raises(PlacementError, match=r"lm_head\.weight: its values are read past"):
        optimizer(model, "stream").step(loss)
    assert digest(model) == before


@pytest.mark.parametrize("effect", [1.0, 1e-3, 1e-6])
def test_reach_is_proved_however_little_a_parameter_does(effect: float) -> None:
    model, loss = make("llama")
    model.shift = nn.Linear(1, 1)
    with pytest.raises(PlacementError, match=r"shift\.weight"):
        optimizer(model, "stream").step(lambda: loss() + effect * model.shift.weight.sum())


def test_what_absurd_weights_raise_is_taken_for_a_parameter_out_of_reach() -> None:
    model, x = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]), torch.randn(8, 4)

    def loss() -> torch.Tensor:
        scale = model[1].weight.abs().max().item()
        table = torch.ones(100)
        return model[0](x).pow(2).mean() * table[int(scale * 10)]

    with pytest.raises(PlacementError, match=r"1\.weight.* raises ValueError"):
        optimizer(model, "stream").step(loss)
    with pytest.warns(zoft.ZoftWarning, match="falling back"):
        optimizer(model, "auto").step(loss)


def test_reach_is_proved_at_the_first_finite_loss() -> None:
    model, loss = encoder_layer()
    opt = optimizer(model, "stream", nonfinite="skip")
    before = digest(model)
    opt.step(lambda: loss() * math.nan)
    assert opt.last_record is not None and opt.last_record.skipped and digest(model) == before
    with pytest.raises(PlacementError, match="does not reach"):
        opt.step(loss)


def test_a_loss_with_randomness_is_refused_by_name() -> None:
    model, loss = make("llama")
    with pytest.raises(PlacementError, match="not deterministic"):
        optimizer(model, "stream").step(lambda: loss() + torch.rand(()))


def test_parameters_without_effect_are_named() -> None:
    model, loss = make("llama")
    model.unused = nn.Linear(3, 3)
    with pytest.warns(zoft.ZoftWarning, match=r"unused\.weight, unused\.bias"):
        optimizer(model, "stream").step(loss)


def test_auto_takes_snapshot_for_few_trainables_and_stream_for_all() -> None:
    for include, placement in ((), "stream"), (("*norm*",), "snapshot"):
        model, loss_fn = make("llama")
        opt = optimizer(model, "auto", include=include)
        assert opt.engine.placement == "auto", "not chosen before the model is in use: it may yet be sharded"
        opt.engine.estimate(loss_fn)
        assert opt.engine.placement == placement


def test_strided_weights_are_numbered_in_row_major_order() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 4, 3)
    strided = nn.Conv2d(3, 4, 3)
    strided.load_state_dict(plain.state_dict())
    strided.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(2, 3, 8, 8)
    for placement in ("stream", "snapshot"):
        for model in (plain, strided):
            opt = optimizer(model, placement, lr=1e-2)
            opt.step(lambda model=model: model(x).pow(2).mean())  # type: ignore[misc]
        assert torch.allclose(plain.weight, strided.weight, atol=1e-6)


def test_places_in_the_scratch_are_used_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "_CPU_RING_BYTES", 4 * 1024)
    placement = StreamPlacement(nn.Linear(2, 2), [], DIRECTIONS, scratch_bytes=2**26)

    def take(numel: int) -> torch.Tensor:
        return placement.scratch(numel, torch.device("cpu"), torch.float32)

    first = take(400)
    offsets = [(take(400).data_ptr() - first.data_ptr()) // 4 for _ in range(3)]
    assert offsets == [448, 0, 448], "aligned, and from the start again where the rest is too short"
    assert take(1024).numel() == 1024
    assert take(5000).numel() == 5000, "a module larger than the ring gets a ring of its size"
