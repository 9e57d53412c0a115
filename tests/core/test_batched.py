"""``batched``: the values of several points at once are those of the same points one after the other."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
)
from transformers.pytorch_utils import Conv1D

import zoft
from tests.core.conftest import FAMILIES, VOCABULARY, make
from tests.core.runs import digest
from tests.methods import claims, methods
from zoft.errors import ConfigError, PlacementError
from zoft.estimators import Point
from zoft.noise import Term
from zoft.placement.batched.weights import Copies
from zoft.placement.tolerance import tolerance_of, types_computed_in
from zoft.types import Estimate

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}
OTHERS: dict[str, Callable[[], nn.Module]] = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL, num_key_value_heads=2)),  # biases
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**SMALL, pad_token_id=1)),
    "classifier": lambda: BertForSequenceClassification(BertConfig(**SMALL, num_labels=3)),
}
KINDS = [*(family for family in FAMILIES if family != "resnet"), *OTHERS]
# By which method, and which parameters: all (tied matrices and embeddings among them) or vectors alone.
TRAINED: dict[str, tuple[str, tuple[str, ...]]] = {
    "eggroll": ("eggroll", ()),
    "lozo": ("lozo", ()),
    "vectors": ("fzoo", ("*norm*", "*ln_*", "*LayerNorm*", "*bias")),
    "dense": ("mezo", ()),
}


def model_of(kind: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    if kind in FAMILIES:
        return make(kind, dtype)[0].eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return OTHERS[kind]().to(dtype).eval()


def loss_of(model: nn.Module, kind: str, where: str = "inside", rows: int = 3) -> Callable[[], torch.Tensor]:
    """The loss as the model computes it from labels, or computed from what the model returns."""
    ids = torch.randint(3, VOCABULARY, (rows, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    labels = ids[:, 0] % 3 if kind == "classifier" else ids
    if where == "inside":
        return lambda: model(input_ids=ids, attention_mask=mask, labels=labels).loss
    extra = {"decoder_input_ids": ids} if kind == "t5" else {}

    def outside() -> torch.Tensor:
        logits = model(input_ids=ids, attention_mask=mask, **extra).logits.float()
        return nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())

    return outside


def engine_of(model: nn.Module, placement: str, **options: Any) -> Any:
    config = zoft.ZOConfig(**{"method": "fzoo", "num_queries": 3, "zo_eps": 1e-2, "placement": placement, **options})
    return zoft.ZOOptimizer(model, 0.0, config).engine


def assert_close(got: Estimate, want: Estimate, tolerance: float) -> None:
    """Losses within a tolerance; slopes within what that is over zo_eps, 1e-2."""
    assert got.loss == pytest.approx(want.loss, abs=tolerance)
    assert got.scalars == pytest.approx(want.scalars, abs=2 * tolerance / 1e-2)
    assert max(map(abs, want.scalars)) > 4 * tolerance / 1e-2, "the comparison says nothing"


def counted(model: nn.Module, block: str) -> list[int]:
    """Number of rows of each call of the first module of a class, from now on."""
    rows: list[int] = []
    module = next(m for m in model.modules() if type(m).__name__ == block)
    module.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    return rows


def cases() -> list[Any]:
    """Every family with every way of training and both kinds of loss; most are left to the slow tier."""
    quick = {
        ("lozo", "t5", "outside"),
        ("lozo", "gpt2", "outside"),
        ("vectors", "bert", "inside"),
        ("dense", "gpt2", "outside"),
        ("dense", "qwen2", "inside"),
    }
    every = [(what, kind, where) for what in TRAINED for kind in KINDS for where in ("inside", "outside")]
    marks = [() if case in quick or case[::2] == ("eggroll", "inside") else pytest.mark.slow for case in every]
    return [pytest.param(*case, marks=mark, id="-".join(case)) for case, mark in zip(every, marks, strict=True)]


@pytest.mark.filterwarnings("ignore:.*trained, but the loss does not depend:zoft.ZoftWarning")
@pytest.mark.parametrize(("what", "kind", "where"), cases())
def test_values_are_those_of_points_one_after_the_other(
    what: str, kind: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, include = TRAINED[what]
    if what == "dense":  # as if the model were large
        no = property(lambda _: False, lambda *_: None)
        monkeypatch.setattr(Copies, "keeps_matrices", no, raising=False)
    model = model_of(kind)
    loss = loss_of(model, kind, where)
    names = [name for name, _ in model.named_parameters()]
    include = tuple(p for p in include if any(fnmatchcase(name, p) for name in names))
    before = digest(model)
    got, want = (
        engine_of(model, placement, method=method, include=include, zo_eps=1e-2).estimate(loss)
        for placement in ("batched", "stream")
    )
    assert_close(got, want, 2e-6)
    assert digest(model) == before


@pytest.mark.parametrize("method", methods("fzoo", "adam", "lozo"))
def test_every_method_has_the_estimate_that_it_has_elsewhere(method: str) -> None:
    model = model_of("llama")
    loss = loss_of(model, "llama")
    if not claims(method, "batched"):
        with pytest.raises(ConfigError, match="placement must be 'auto', got 'batched'"):
            engine_of(model, "batched", method=method)
        return
    got, want = (engine_of(model, p, method=method).estimate(loss) for p in ("batched", "stream"))
    assert got.loss == pytest.approx(want.loss, abs=2e-6)
    assert got.scalars == pytest.approx(want.scalars, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("kind", ["bert", "llama", *(pytest.param(k, marks=pytest.mark.slow) for k in ("gpt2", "t5"))])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 3e-2), (torch.float16, 3e-3)], ids=["bf16", "fp16"])
def test_16_bit_losses_are_those_of_moved_weights_within_their_rounding(
    kind: str, dtype: torch.dtype, tolerance: float
) -> None:
    model = model_of(kind, dtype)
    loss = loss_of(model, kind)
    for method in ("fzoo", "eggroll"):
        got, want = (engine_of(model, p, method=method, zo_eps=0.3).estimate(loss) for p in ("batched", "stream"))
        assert got.loss == pytest.approx(want.loss, abs=tolerance)
        assert got.scalars == pytest.approx(want.scalars, abs=2 * tolerance / 0.3)


@pytest.mark.parametrize("computed_in", ["float32", "a bfloat16 base", "autocast"])
def test_an_adapter_is_judged_by_the_rounding_of_what_it_is_computed_in(computed_in: str) -> None:
    """PEFT keeps adapters in float32, whatever they adapt; kernels may round by how many rows they are given."""
    base = model_of("llama", torch.bfloat16 if computed_in == "a bfloat16 base" else torch.float32)
    model = get_peft_model(base, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)).eval()
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    plain = loss_of(model, "llama", "outside")
    norm = next(m for name, m in model.named_modules() if name.endswith("layers.0.input_layernorm"))
    norm.register_forward_hook(lambda _, inputs, output: output * (1.0 if len(inputs[0]) == 3 else 1.005))

    def loss() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=computed_in == "autocast"):
            return plain()

    engine = engine_of(model, "batched")
    if computed_in == "float32":
        with pytest.raises(PlacementError, match=r"differs by .*, more than 1e-04"):
            engine.estimate(loss)
    else:
        engine.estimate(loss)
        assert engine.placement == "batched"


def test_weights_that_are_kept_elsewhere_have_a_type_and_no_autocast() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    with types_computed_in(model) as types:
        model[0](torch.ones(1, 2))
    assert tolerance_of(types) == 1e-4
    with types_computed_in(model.to(torch.bfloat16)) as types:
        pass
    assert tolerance_of(types) == 3e-2


@pytest.mark.parametrize(
    ("tokens", "rows"),
    [(2048, [12]), (4 * 21, [12]), (3 * 21, [9, 3]), (2 * 21, [6, 6])],
    ids=["all at once", "all exactly", "three and one", "two and two"],
)
def test_layers_see_as_many_rows_as_the_budget_allows_and_values_stay(tokens: int, rows: list[int]) -> None:
    """Four points of three rows of seven tokens."""
    model = model_of("llama")
    loss = loss_of(model, "llama")
    engine, plain = engine_of(model, "batched", batched_tokens=tokens), engine_of(model, "stream")
    engine.estimate(loss)
    seen = counted(model, "LlamaDecoderLayer")
    got = engine.estimate(loss)
    assert seen == rows
    assert_close(got, plain.estimate(loss), 2e-6)


def test_a_batch_that_fills_the_budget_is_evaluated_point_by_point_and_says_so() -> None:
    model = model_of("llama")
    loss = loss_of(model, "llama")
    engine = engine_of(model, "batched", batched_tokens=40)
    with pytest.warns(zoft.ZoftWarning, match="batched_tokens=40 tokens in one forward, and this batch has 21 at each"):
        engine.estimate(loss)
    seen = counted(model, "LlamaDecoderLayer")
    assert engine.estimate(loss) == engine_of(model, "stream").estimate(loss)
    assert seen[:4] == [3, 3, 3, 3]


class Scaled(nn.Module):
    """Has a weight, ``[256, 256]``, that no linear map uses."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(256, 256))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight[0]


def test_copies_of_weights_for_all_points_stay_within_scratch() -> None:
    model = nn.Sequential(
        nn.Embedding(VOCABULARY, 256), nn.Sequential(Scaled(), Scaled(), Scaled(), nn.Linear(256, 256))
    )
    ids = torch.arange(12).view(3, 4)
    engine = engine_of(model, "batched", scratch_mib=1, include=("1.*",), method="mezo", num_queries=2)
    before = digest(model)
    with pytest.raises(ConfigError, match=r"copy of 1\.2\.weight and 2 more for each point.*or use placement='stream'"):
        engine.estimate(lambda: model(ids).square().mean())
    assert digest(model) == before


def test_a_point_that_is_asked_for_twice_has_its_value_twice() -> None:
    model = model_of("llama")
    loss = loss_of(model, "llama")
    there, back = (Term(0, 0, 0.1),), (Term(0, 0, -0.1),)
    points = [Point(str(number), terms) for number, terms in enumerate([there, there, back, (), (), there])]
    got, want = (engine_of(model, p).evaluate(loss, points) for p in ("batched", "stream"))
    assert got == pytest.approx(want, abs=2e-6)
    assert len({round(value, 4) for value in want}) == 3


@pytest.mark.parametrize("linear", [nn.Linear, Conv1D])
@pytest.mark.parametrize("method", ["mezo", "fzoo"])
def test_matrices_that_are_too_large_to_copy_are_made_in_blocks(
    method: str, linear: Callable[[int, int], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one row at a time, of 100, which do not divide the matrix, and whole."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(VOCABULARY, 256), nn.Sequential(linear(256, 256), linear(256, 256)))
    ids = torch.arange(12).view(3, 4)
    options: dict[str, Any] = {"include": ("1.*",), "method": method, "num_queries": 2, "scratch_mib": 1}
    want = engine_of(model, "stream", **options).estimate(lambda: model(ids).square().mean())
    before = digest(model)
    for size in (1, 4 * 100 * 256 * (4 if method == "mezo" else 3), 2**30):
        monkeypatch.setattr("zoft.placement.stream._CPU_BLOCK_BYTES", size)
        engine = engine_of(model, "batched", **options)
        got = engine.estimate(lambda: model(ids).square().mean())
        assert engine.placement == "batched"
        assert_close(got, want, 2e-6)
    assert digest(model) == before


def test_micro_batches_add_up_as_elsewhere() -> None:
    records = []
    for placement in ("batched", "stream"):
        model = model_of("llama")
        config = zoft.ZOConfig(method="fzoo", num_queries=3, zo_eps=1e-2, placement=placement)
        opt = zoft.ZOOptimizer(model, 0.0, config)
        for rows in (3, 2):
            (opt.loss(loss_of(model, "llama", rows=rows)) / 2).backward()
        opt.step()
        records.append(opt.last_record)
    assert records[0].scalars == pytest.approx(records[1].scalars, abs=5e-4)


class Layers(nn.Module):
    """A small network over rows ``[B, 6]``, that can be made to break what ``batched`` relies on."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.fault = fault

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.second(torch.tanh(self.first(x))))
        if self.fault == "coupled":
            x = x - x.mean(0)
        if self.fault == "order":
            return self.third(x.flip(0))
        if self.fault == "sorted":
            return self.third(x[x[:, 0].argsort()])
        return self.third(x)


X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("fault", ["coupled", "order", "sorted"])
def test_rows_that_depend_on_each_other_are_an_error(fault: str) -> None:
    torch.manual_seed(0)
    model = Layers(fault)
    before = digest(model)
    with pytest.raises(
        PlacementError, match="Rows of the batch depend on each other, or a trained weight is used in a"
    ):
        engine_of(model, "batched").estimate(lambda: model(X).square().mean())
    assert digest(model) == before


def test_inputs_that_change_between_points_are_an_error() -> None:
    torch.manual_seed(0)
    model, noise = Layers(), torch.Generator().manual_seed(0)
    engine = engine_of(model, "batched")
    engine.estimate(lambda: model(X).square().mean())
    before = digest(model)
    with pytest.raises(PlacementError, match="the inputs of Layers are not the same at all points"):
        engine.estimate(lambda: model(X + torch.randn(4, 6, generator=noise)).square().mean())
    calls = iter(range(9))
    with pytest.raises(PlacementError, match="or it is not always run"):
        engine.estimate(lambda: model(X).square().mean() + (model(X).mean() if next(calls) else 0.0))
    assert digest(model) == before
    assert_close(
        engine.estimate(lambda: model(X).square().mean()),
        engine_of(model, "stream").estimate(lambda: model(X).square().mean()),
        1e-6,
    )


def test_a_loss_that_does_not_always_run_the_model_has_its_values() -> None:
    torch.manual_seed(0)
    model = Layers()
    values = []
    for placement in ("batched", "stream"):
        engine, calls = engine_of(model, placement), iter(range(99))
        engine.estimate(lambda: model(X).square().mean())
        of_each = [lambda: X.mean(), lambda: model(X).square().mean(), lambda: model(X).mean(), lambda: X.mean()]
        values.append(engine.estimate(lambda of_each=of_each, calls=calls: of_each[next(calls)]()))  # type: ignore[misc]
    assert_close(*values, 1e-6)


def test_a_cache_as_in_generation_is_an_error() -> None:
    model = model_of("llama")
    ids = torch.randint(3, VOCABULARY, (2, 5), generator=torch.Generator().manual_seed(1))

    def generated() -> torch.Tensor:
        out = model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
        return out.float().mean()

    with pytest.raises(PlacementError, match="takes a DynamicCache, which cannot be repeated for each point"):
        engine_of(model, "batched", zo_eps=0.3).estimate(generated)


def test_a_module_that_reads_past_its_children_is_an_error() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(PlacementError, match="reaches weights only where 'stream' does"):
        engine_of(model, "batched").estimate(lambda: model(x).square().mean())


def test_a_first_loss_that_is_not_finite_proves_nothing_and_the_next_one_does() -> None:
    torch.manual_seed(0)
    model = Layers()
    engine = engine_of(model, "batched", nonfinite="skip")
    engine.estimate(lambda: model(X).mean() * float("nan"))
    seen = counted(model, "Linear")
    engine.estimate(lambda: model(X).square().mean())
    assert 16 in seen, "four points of four rows"
