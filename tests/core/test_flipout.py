"""A direction for each example: the losses are those of weights moved for each, and the estimate is theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import zoft
from tests.core.conftest import VOCABULARY, make
from tests.core.runs import digest
from zoft.errors import ConfigError, PlacementError
from zoft.method import build_method
from zoft.noise import Span, Term
from zoft.registry import method_names

CONFIG = zoft.ZOConfig(method="grzo", num_queries=8, zo_eps=1e-2)
Losses = Callable[[], torch.Tensor]


def tokens(rows: int = 4) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (rows, 7), generator=torch.Generator().manual_seed(1))


def examples(model: nn.Module, ids: torch.Tensor) -> Losses:
    """Each row's mean loss over its tokens."""

    def losses() -> torch.Tensor:
        logits = model(input_ids=ids).logits[:, :-1].float()
        each = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        return each.view(len(ids), -1).mean(1)

    return losses


def moved(engine: Any, terms: list[Term], losses: Losses) -> torch.Tensor:
    """The losses with the weights themselves moved, and brought back."""
    before = [t.parameter.data.clone() for t in engine.trainables]
    for trainable, weight in zip(engine.trainables, before, strict=True):
        engine.directions.combine([Span(trainable.parameter.data, weight, trainable.number)], terms)
    with torch.no_grad():
        result = losses()
    for trainable, weight in zip(engine.trainables, before, strict=True):
        trainable.parameter.data.copy_(weight)
    return result


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_each_slope_is_that_of_the_example_with_the_weights_moved_for_it(family: str) -> None:
    """Tied heads, position embeddings, biases, transposed weights and both kinds of normalisation among them."""
    model = make(family)[0].eval()
    losses = examples(model, tokens())
    opt = zoft.ZOOptimizer(model, 0.0, CONFIG)
    before = digest(model)
    estimate = opt.engine.estimate(losses)
    assert opt.engine.placement == "flipout" and digest(model) == before
    want = []
    for place in range(4):
        plus, minus = (moved(opt.engine, [Term(0, place, c)], losses)[place] for c in (1e-2, -1e-2))
        want.append(float(plus - minus) / (2e-2 * 4))
    assert list(estimate.scalars[:4]) == pytest.approx(want, rel=2e-3, abs=2e-4)
    assert len(set(want)) == 4 and max(map(abs, want)) > 0.01
    assert estimate.scalars[4:] == (0.0,) * 4
    with torch.no_grad():
        assert estimate.loss == pytest.approx(float(losses().mean()), rel=1e-2)


def test_examples_of_several_rows_are_told_apart() -> None:
    """As where each answer option of an example is a row of its own."""
    model = make("llama")[0].eval()
    rows = examples(model, tokens(6))
    opt = zoft.ZOOptimizer(model, 0.0, CONFIG)

    def losses() -> torch.Tensor:
        return rows().view(3, 2).sum(1)

    estimate = opt.engine.estimate(losses)
    for place in range(3):
        plus, minus = (moved(opt.engine, [Term(0, place, c)], losses)[place] for c in (1e-2, -1e-2))
        assert estimate.scalars[place] == pytest.approx(float(plus - minus) / (2e-2 * 3), rel=2e-3, abs=2e-4)
    with pytest.raises(PlacementError, match="a batch of 6 rows, 2 for each example, gave losses of shape"):
        opt.engine.estimate(rows)


def test_the_mean_estimate_is_the_gradient_and_varies_less_than_with_one_direction() -> None:
    """Of examples that agree. Where their gradients cancel, directions of their own bring the parts' variance in."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(1, size, generator=generator, dtype=torch.float64).expand(8, size) for size in (5, 3))
    x = x + 0.1 * torch.randn(8, 5, generator=generator, dtype=torch.float64)
    model = nn.Linear(5, 3).double()

    def losses() -> torch.Tensor:
        return (model(x) - y).square().sum(1)

    losses().mean().backward()
    truth = model.weight.grad.numpy().copy()
    spreads = []
    for config in (CONFIG, zoft.ZOConfig(method="mezo", zo_eps=1e-2, placement="snapshot")):
        engine = zoft.ZOOptimizer(model, 0.0, config).engine
        each = config.method == "grzo"
        samples = []
        for step in range(600):
            engine.step = step
            scalars = engine.estimate(losses if each else lambda: losses().mean()).scalars
            g = torch.zeros(3, 5, dtype=torch.float64)
            terms = [Term(step, k, s) for k, s in enumerate(scalars)]
            engine.directions.combine([Span(g, g.clone(), 0)], terms)
            samples.append(g.numpy())
        mean, error = np.mean(samples, axis=0), np.std(samples, axis=0) / np.sqrt(len(samples))
        assert np.all(np.abs(mean - truth) <= 4.5 * error)
        spreads.append(float(np.mean(error**2)))
    assert spreads[0] < spreads[1] / 2


def test_the_step_is_the_papers_formula() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(5, 3).double(), torch.randn(4, 5).double()

    def losses() -> torch.Tensor:
        return model(x).square().sum(1) + model(x).sum(1)

    opt = zoft.ZOOptimizer(model, 0.1, CONFIG)
    w = model.weight.detach().numpy().copy()
    zs = []
    for place in range(4):
        z = torch.zeros(3, 5, dtype=torch.float64)
        opt.engine.directions.combine([Span(z, z.clone(), 0)], [Term(0, place, 1.0)])
        zs.append(z.numpy())
    p = [
        float((moved(opt.engine, [Term(0, i, 1e-2)], losses) - moved(opt.engine, [Term(0, i, -1e-2)], losses))[i])
        / 2e-2
        for i in range(4)
    ]
    opt.step(losses)
    want = w - 0.1 * np.mean([a / np.std(p) * z for a, z in zip(p, zs, strict=True)], axis=0)
    np.testing.assert_allclose(model.weight.detach().numpy(), want, atol=1e-6)


def test_directions_of_examples_have_one_noise_and_signs_of_their_own() -> None:
    model = nn.Linear(40, 30)
    directions = zoft.ZOOptimizer(model, 0.0, CONFIG).engine.directions
    zs = []
    for place in range(8):
        z = torch.zeros(30, 40)
        directions.combine([Span(z, z.clone(), 0)], [Term(3, place, 1.0)])
        zs.append(z)
    assert all(torch.equal(z.abs(), zs[0].abs()) for z in zs)
    for z in zs[1:]:
        ratio = z / zs[0]
        assert torch.equal(ratio, ratio[:, :1] @ ratio[:1] * ratio[0, 0]), "rows times columns"
    products = torch.corrcoef(torch.stack([z.flatten() for z in zs]))
    assert (products - torch.eye(8)).abs().max() < 0.15


@pytest.mark.parametrize(
    "method", ["mezo", *(pytest.param(m, marks=pytest.mark.slow) for m in ("momentum", "adam", "sign"))]
)
def test_methods_that_average_learn_from_examples_with_directions_of_their_own(method: str, tmp_path: Path) -> None:
    lr = {"mezo": 1e-2, "momentum": 1e-3, "adam": 1e-2, "sign": 3e-3}[method]
    model, base = (make("llama")[0].eval() for _ in range(2))
    losses = examples(model, tokens(8))
    config = zoft.ZOConfig(method=method, shared_vector="example", num_queries=8, zo_eps=1e-2)
    opt = zoft.ZOOptimizer(model, lr, config, log=tmp_path / "log")
    with torch.no_grad():
        first = float(losses().mean())
    for _ in range(30):
        opt.step(losses)
    with torch.no_grad():
        assert float(losses().mean()) < first - 0.03
    opt.close_log()
    zoft.replay(base, tmp_path / "log")
    assert digest(base) == digest(model)


def test_other_methods_refuse_directions_of_examples() -> None:
    refused = []
    for name in method_names():
        try:
            assert build_method(zoft.ZOConfig(method=name, shared_vector="example")).evaluation == "per_example"
        except ConfigError as error:
            assert "has its directions in common for the whole batch" in str(error)
            refused.append(name)
    assert set(method_names()) - set(refused) == {"adam", "grzo", "mezo", "momentum", "sign"}


def test_micro_batches_take_places_one_after_the_other() -> None:
    model = make("llama")[0].eval()
    ids = tokens(4)
    whole, parts = (zoft.ZOOptimizer(model, 0.0, CONFIG) for _ in range(2))
    whole.step(examples(model, ids))
    for half in ids.chunk(2):
        (parts.loss(examples(model, half)) / 2).backward()
    parts.step()
    assert whole.last_record is not None and parts.last_record is not None
    assert parts.last_record.scalars == pytest.approx(whole.last_record.scalars, abs=1e-4)
    with pytest.raises(ConfigError, match="a step has 9 examples in this process, more than its 8 places: raise num_q"):
        zoft.ZOOptimizer(model, 0.0, CONFIG).step(examples(model, tokens(9)))


def test_one_number_counts_as_one_example_and_says_so() -> None:
    model, loss = make("llama")
    opt = zoft.ZOOptimizer(model, 0.0, CONFIG)
    with pytest.warns(zoft.ZoftWarning, match=r"returns one number.*return the losses of the examples"):
        opt.step(loss)
    assert opt.last_record is not None
    assert opt.last_record.scalars[0] != 0.0 and opt.last_record.scalars[1:] == (0.0,) * 7


@pytest.mark.parametrize("of_each", [True, False], ids=["losses of examples", "one loss"])
def test_a_first_loss_that_is_not_finite_is_skipped_and_the_next_one_proves(of_each: bool) -> None:
    model = make("llama")[0].eval()
    rows = examples(model, tokens(6))

    def losses(factor: float) -> torch.Tensor:
        pairs = rows().view(3, 2).sum(1) * factor
        return pairs if of_each else pairs.mean()

    config = zoft.ZOConfig(method="grzo", num_queries=8, zo_eps=1e-2, nonfinite="skip")
    opt = zoft.ZOOptimizer(model, 1e-3, config)
    before = digest(model)
    opt.step(lambda: losses(float("nan")))
    assert opt.last_record is not None and opt.last_record.skipped and digest(model) == before
    opt.step(lambda: losses(1.0))
    assert sum(scalar != 0.0 for scalar in opt.last_record.scalars) == (3 if of_each else 1)


def test_losses_of_examples_are_refused_where_all_share_a_direction() -> None:
    model = make("llama")[0]
    for placement in ("auto", "snapshot"):
        with pytest.raises(ConfigError, match=r"must return a tensor with one element.*\(4,\).*grzo"):
            zoft.ZOOptimizer(model, 0.0, zoft.ZOConfig(method="mezo", placement=placement)).step(
                examples(model, tokens())
            )


class Coupled(nn.Module):
    """Subtracts the batch's mean, as a normalisation over the batch does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.linear(x).squeeze(-1)
        return (out - out.mean()).square()


class Convolution(nn.Module):
    """Holds a kind of weight of which flipout knows nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x[:, None]).square().flatten(1).mean(1)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Coupled, "Its loss depends on other examples, or a weight is read past its module"),
        (Convolution, "cannot be given to conv.weight, conv.bias, held by a Conv1d: known are linear maps"),
    ],
)
def test_what_cannot_be_evaluated_example_by_example_is_an_error(kind: Any, message: str) -> None:
    torch.manual_seed(0)
    model, x = kind(), torch.randn(4, 7)
    before = digest(model)
    with pytest.raises(PlacementError, match=message):
        zoft.ZOOptimizer(model, 0.1, CONFIG).step(lambda: model(x))
    assert digest(model) == before


def test_an_exception_inside_a_scaled_module_gives_its_weight_back() -> None:
    model = make("llama")[0].eval()
    losses, calls = examples(model, tokens()), 0
    opt = zoft.ZOOptimizer(model, 0.1, CONFIG)
    opt.step(losses)
    before, norm = digest(model), model.model.norm

    def interrupt(*args: Any) -> None:
        nonlocal calls
        calls += 1
        raise KeyboardInterrupt

    handle = norm.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        opt.step(losses)
    handle.remove()
    assert calls == 1 and digest(model) == before


@pytest.mark.parametrize("level", [0.0, 0.5])
@pytest.mark.parametrize("flat", [0, 3, 6, 7])
def test_an_example_without_a_slope_counts_as_one(flat: int, level: float) -> None:
    """The group is the batch: g = (1/B) sum_i p_i z_i / std(p), over all of its B examples."""
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    x = torch.randn(8, 4)
    reads = (torch.arange(8) >= flat).float()

    def losses() -> torch.Tensor:
        return model(x).squeeze(1) * reads + level * (1.0 - reads)

    opt = zoft.ZOOptimizer(model, 0.0, CONFIG)
    estimate = opt.engine.estimate(losses)
    slopes = opt.engine.method.estimator.projected_grads(estimate.scalars)
    assert len(slopes) == 8 and slopes[:flat] == [0.0] * flat and all(slopes[flat:])
    assert estimate.loss == pytest.approx(losses().mean().item(), abs=1e-6)
    coefficients = [term.coefficient for term in opt.engine.method.update.gradient(0, estimate.scalars)]
    assert coefficients == pytest.approx([slope / (8 * np.std(slopes)) for slope in slopes], rel=1e-5, abs=1e-12)


def test_a_batch_without_any_slope_moves_nothing_and_places_without_examples_are_none() -> None:
    model = nn.Linear(4, 1)
    x = torch.randn(5, 4)
    opt = zoft.ZOOptimizer(model, 1.0, CONFIG)
    before = digest(model)
    for rows in (2, 3):  # micro-batches of unequal weight
        opt.loss(lambda rows=rows: 0.0 * model(x[:rows]).squeeze(1)).mul(rows / 5).backward()  # type: ignore[misc]
    opt.step()
    assert opt.last_record is not None
    assert opt.engine.method.estimator.projected_grads(opt.last_record.scalars) == [0.0] * 5
    assert digest(model) == before
