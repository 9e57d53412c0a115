"""``zo_lr="auto"``: the step size is near its theoretical value, stays stable, and is a function of the log."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import zoft
from tests.core.runs import Run, digest, start
from zoft.errors import ConfigError
from zoft.method import build_method
from zoft.registry import method_names
from zoft.replay_log import ReplayLog
from zoft.step_size import ladder, sides
from zoft.step_size.auto import FARTHER, LONGER, LONGEST, MOST, SHRINK, STEADY
from zoft.step_size.trust import Curvature, Signal, Watch
from zoft.types import StepRecord

STEPS = 20  # in which a step size is chosen, and used


class Bowl(nn.Module):
    """``scale / 2 sum_i h_i (w_i / unit)^2``: the spectrum h is known, and so is the best step size."""

    def __init__(self, spectrum: torch.Tensor, scale: float = 1.0, unit: float = 1.0) -> None:
        super().__init__()
        start = torch.randn(len(spectrum), generator=torch.Generator().manual_seed(1), dtype=spectrum.dtype)
        self.w = nn.Parameter(unit * start)
        self.register_buffer("h", spectrum)
        self.scale, self.unit = scale, unit

    def forward(self) -> torch.Tensor:
        return self.scale * 0.5 * (self.h * (self.w / self.unit).square()).sum()


def spectrum(size: int = 64, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Curvatures over two decades."""
    return torch.logspace(-1, 1, size, dtype=dtype)


def auto(model: nn.Module, **config: Any) -> zoft.ZOOptimizer:
    return zoft.ZOOptimizer(
        model, 1.0, zoft.ZOConfig(**{"method": "mezo", "zo_lr": "auto", "placement": "snapshot", **config})
    )


def until_chosen(opt: zoft.ZOOptimizer, closure: Callable[[], torch.Tensor]) -> float:
    """Take steps until one moves; return its step size."""
    for _ in range(4):
        opt.step(closure)
        if opt.step_size.figures["zo_lr"]:
            return opt.step_size.figures["zo_lr"]
    raise AssertionError("no step size was chosen")


def best_of(model: Bowl, queries: int) -> float:
    """The lr of n-SPSA that lowers the loss most: ``q / (tr H + (q + 1) g^T H g / g^T g)``, H the Hessian."""
    h = model.scale * model.h / model.unit**2
    g = (h * model.w.detach()).double()
    return float(queries / (h.sum() + (queries + 1) * (g * h * g).sum() / (g * g).sum()))


# --- the choice ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
@pytest.mark.parametrize("queries", [1, 8])
def test_the_step_size_of_mezo_is_its_part_of_the_best_within_a_factor_of_two(queries: int, distribution: str) -> None:
    model = Bowl(spectrum())
    opt = auto(model, num_queries=queries, distribution=distribution, seed=3)
    first = until_chosen(opt, model)
    assert "tr H" in opt.step_size.said and f"{first:.2e}" in opt.step_size.said
    assert 0.03 <= first / best_of(model, queries) <= 2.0 * MOST, "careful, while little is known"
    for _ in range(200):
        opt.step(model)
    assert 0.5 <= opt.step_size.figures["zo_lr"] / (MOST * best_of(model, queries)) <= 2.0


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
def test_the_step_size_of_a_normalised_one_sided_method_is_too(distribution: str) -> None:
    """FZOO divides MeZO's estimate by about ``|g|``, times zo_eps, by which it multiplies as well."""
    model = Bowl(spectrum())
    opt = auto(model, method="fzoo", distribution=distribution, zo_eps=1e-4)
    for _ in range(60):
        opt.step(model)
    best = best_of(model, 8) * float((model.h * model.w.detach()).norm())
    # Means of past slopes lag behind a loss that falls fast; twice the best is where steps stop being stable.
    assert 0.4 <= opt.step_size.figures["zo_lr"] / (MOST * best) <= 3.0


ABLE = [name for name in method_names() if build_method(zoft.ZOConfig(name)).can_measure_lr]


@pytest.mark.parametrize("name", ABLE)
def test_the_loss_falls_with_every_method_that_is_able(name: str) -> None:
    model = Bowl(spectrum())
    options = {"sparsity": 0.1} if name == "sparse_mezo" else {}
    opt, before = auto(model, method=name, method_kwargs=options), model().item()
    for _ in range(150):
        opt.step(model)
    assert model().item() < 0.8 * before


@pytest.mark.parametrize("method", ["mezo", "fzoo"])
@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_it_does_not_diverge_whatever_the_scale_of_the_loss_and_of_the_weights(
    scale: float, unit: float, method: str
) -> None:
    model = Bowl(spectrum(dtype=torch.float32), scale, unit)
    opt, losses = auto(model, method=method), [model().item()]
    for _ in range(120):
        opt.step(model)
        losses.append(model().item())
    assert max(losses) <= 1.01 * losses[0] and losses[-1] < 0.8 * losses[0]


def test_minibatch_noise_makes_steps_shorter() -> None:
    """Where nine tenths of a slope are one batch's own, the step size follows the tenth that is not."""
    rates = []
    for noise in (0.0, 10.0):
        model, rng = Bowl(spectrum()), torch.Generator().manual_seed(0)
        opt = auto(model, zo_eps=1e-3)
        for _ in range(300):
            push = noise * torch.randn(64, generator=rng, dtype=torch.float64)
            opt.step(lambda push=push, model=model: model() + (push * model.w).sum())  # type: ignore[misc]
        rates.append(opt.step_size.figures["zo_lr"])
    assert rates[1] < rates[0] / 2


def scheduled(state: dict[str, Any]) -> float:
    """The step size of which a schedule below its start allows its part."""
    steady = STEADY * Signal(**state["signal"]).share * state["gain"]
    steady /= state["square"] * Curvature(**state["curvature"]).size
    return min(LONGER * state["usual_lr"], steady)


@pytest.mark.parametrize(("part", "lowered"), [(0.9, False), (0.25, True)])
def test_a_schedule_lowers_steps_to_its_part_of_longer_ones_where_that_is_less(part: float, lowered: bool) -> None:
    model, rng, lengths, at_ceiling = Bowl(spectrum()), torch.Generator().manual_seed(0), [], []
    opt = auto(model, zo_eps=1e-3, num_queries=8)
    for _ in range(200):
        push = 30.0 * torch.randn(64, generator=rng, dtype=torch.float64)
        opt.step(lambda push=push: model() + (push * model.w).sum())  # type: ignore[misc]
        assert opt.last_record is not None
        chosen, ceiling = opt.step_size.figures["zo_lr"], part * scheduled(opt.step_size.state_dict())
        if opt.param_groups[0]["lr"] == part:
            lengths.append(opt.last_record.lrs[0] / min(chosen, ceiling))
            at_ceiling.append(ceiling < chosen)
        opt.param_groups[0]["lr"] = part
    assert max(lengths) == pytest.approx(1.0, rel=1e-6)
    assert statistics.median(lengths) == pytest.approx(1.0, rel=1e-6), "most steps, but for outliers"
    assert statistics.mode(at_ceiling) == lowered


@pytest.mark.parametrize("noise", [0.0, 3.0, 10.0])
def test_the_part_of_slopes_that_other_batches_confirm_is_measured(noise: float) -> None:
    """A batch's own gradient is ``h w + noise``; the noise's part of its squared length is what no other one has."""
    model, rng, shares = Bowl(spectrum()), torch.Generator().manual_seed(0), []
    opt = auto(model, zo_eps=1e-3, num_queries=4, distribution="rademacher")
    for _ in range(400):
        slopes = model.h * model.w.detach()
        shares.append(float(slopes.square().sum() / (slopes.square().sum() + 64 * noise**2)))
        push = noise * torch.randn(64, generator=rng, dtype=torch.float64)
        opt.step(lambda push=push: model() + (push * model.w).sum())  # type: ignore[misc]
    measured = Signal(**opt.step_size.state_dict()["signal"]).share
    assert measured == pytest.approx(sum(shares) / len(shares), abs=0.1)


# --- zo_eps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=["fp32", "bf16", "fp64"])
def test_differences_at_the_chosen_zo_eps_stand_clear_of_the_noise(dtype: torch.dtype) -> None:
    model = Bowl(spectrum())
    slopes = model.h * model.w.detach()
    opt = auto(model)
    opt.step(lambda: model().to(dtype))
    assert opt.last_record is not None
    zo_eps, noise, _ = opt.last_record.probe
    assert 2.0 * zo_eps * float(slopes.norm()) > 5.0 * noise > 0.0
    assert opt.engine.zo_eps == pytest.approx(zo_eps, rel=1e-6)
    assert opt.engine.config.zo_eps == 1e-3, "the configuration stays what it was"


def losses_on_ladder(along: Callable[[float], float]) -> list[float]:
    """Losses at the ladder's points, the same along each direction."""
    points = ladder.points(0, 1)
    return [along(point.terms[0].coefficient if point.terms else 0.0) for point in points]


def test_the_ladder_chooses_between_rounding_and_bending() -> None:
    def rounded(e: float) -> float:  # to 8e-6; the cubic term is a tenth of the slope at 0.3
        return round((1.0 + e + 2.0 * e * e + e**3) * 2.0**17) / 2.0**17

    zo_eps, noise, farthest = ladder.choose(*sides.differences(losses_on_ladder(rounded)), 7.0)
    assert 3e-3 <= zo_eps <= 0.3 and 1e-6 <= noise <= 1e-5
    assert farthest == pytest.approx(0.1 * math.sqrt(10.0)), "the cubic term is a tenth of the slope there"


@pytest.mark.parametrize("lowest", [1e-3, 1e-2, 0.1, 1.0])
def test_the_ladder_stays_below_scales_at_which_losses_are_not_finite(lowest: float) -> None:
    rng = random.Random(0)

    def overflows(e: float) -> float:
        return math.nan if abs(e) >= lowest else 1.0 + 0.3 * e + e * e + rng.gauss(0.0, 1e-7)

    values = sides.differences([sides.real(loss) for loss in losses_on_ladder(overflows)])
    chosen = ladder.choose(*values, 1e-2)
    assert chosen.zo_eps < lowest and chosen.noise < 1e-6
    assert chosen.farthest < lowest or chosen.farthest == sides.UNREAL


@pytest.mark.parametrize("flat", [0.0, 5.0, math.inf], ids=["zero", "five", "infinite"])
def test_a_ladder_that_shows_nothing_leaves_the_default(flat: float) -> None:
    values = sides.differences([1e20 if flat == math.inf else flat] * ladder.NUM_POINTS)
    assert ladder.choose(*values, 0.125).zo_eps == 0.125


def test_a_given_zo_eps_wins() -> None:
    run = start(zo_lr="auto", zo_eps=5e-3).steps(0, 3)
    assert run.opt.engine.zo_eps == 5e-3
    assert [round(r, 6) for r in (run.opt.last_record or pytest.fail()).probe[:1]] == [5e-3]


# --- keeping stable ------------------------------------------------------------------------------------


def test_a_rise_of_the_loss_out_of_its_spread_is_an_alarm_and_its_spread_is_not() -> None:
    rng = torch.Generator().manual_seed(0)
    watch = Watch()
    noisy = [1.0 + 0.1 * float(torch.randn((), generator=rng)) for _ in range(500)]
    assert not any(watch.alarm(loss) for loss in noisy)
    assert any(watch.alarm(loss + 1.0) for loss in noisy[:10])


@pytest.mark.parametrize("queries", [1, 10])
def test_batches_without_a_finite_loss_do_not_shrink_the_step_size(queries: int) -> None:
    model = Bowl(spectrum())
    opt = auto(model, zo_eps=1e-3, num_queries=queries, nonfinite="skip")
    for step in range(200):
        opt.step(lambda s=step: model() * (math.nan if s % 10 == 9 else 1.0))  # type: ignore[misc]
    assert opt.step_size.state_dict()["caution"] == 1.0
    assert opt.step_size.figures["zo_lr"] > 0.3 * MOST * best_of(model, queries)


def test_steps_are_shortened_while_slopes_grow() -> None:
    model = Bowl(spectrum())
    opt, factors = auto(model, zo_eps=1e-3, num_queries=8), []
    for step in range(70):
        # A push that grows by a seventh a step from the fortieth on, and of which the curvature tells nothing.
        push = 10.0 * 1.15 ** max(0, step - 40)
        opt.step(lambda p=push: 1e-3 * model() + (p * model.w).sum())  # type: ignore[misc]
        assert opt.last_record is not None
        factors.append(opt.last_record.lrs[0] / opt.step_size.figures["zo_lr"])
    assert min(factors[10:40]) > 0.8
    assert factors[69] < 0.2, "slopes have grown to 58 times what they were"


def test_curvature_that_jumps_for_good_is_believed_at_the_second_check() -> None:
    model = Bowl(spectrum())
    opt, bounds, checks = auto(model, zo_eps=1e-3), [], 0
    for step in range(160):
        checks += step >= 100 and bool(opt.step_size.points())
        opt.step(lambda s=step: (1e4 if s >= 100 else 1.0) * model())  # type: ignore[misc]
        bounds.append(Curvature(**opt.step_size.state_dict()["curvature"]).bound)
        if checks == 2:
            break
    assert bounds[-1] > 100 * bounds[99]


def test_curvature_at_the_start_soon_counts_for_little() -> None:
    """Eight directions say what it is there, and training soon leaves it."""
    model, checks = Bowl(torch.ones(1024, dtype=torch.float64)), 0
    opt = auto(model, zo_eps=1e-3)
    for step in range(40):
        checks += bool(step and opt.step_size.points())
        opt.step(lambda s=step: (0.1 if s else 1.0) * model())  # type: ignore[misc]
        known = Curvature(**opt.step_size.state_dict()["curvature"])
        mean = known.total / known.weight / 1024  # of which the start says 1, and each check 0.1
        if checks == 1:
            assert mean > 0.6, "one check"
        if checks == 8:
            assert mean < 0.45, "as many checks as there were directions"
            break
    else:
        pytest.fail("forty steps had fewer than eight checks")


def test_no_step_goes_farther_than_slopes_were_seen_to_stay_the_same() -> None:
    """On a loss that is straight up to 0.01 and bends sharply beyond, of which curvature near zero tells nothing."""
    model = Bowl(torch.ones(64, dtype=torch.float64))

    def loss() -> torch.Tensor:
        return (0.01 * torch.sin(model.w / 0.01)).sum() + (model.w**2).sum() * 1e-3

    opt, farthest = auto(model), 0.0
    for _ in range(30):
        before = model.w.detach().clone()
        opt.step(loss)
        farthest = max(farthest, float((model.w.detach() - before).square().mean().sqrt()))
    limit = opt.step_size.state_dict()["farthest"]
    assert limit < 0.1
    assert 0.0 < farthest <= 2.0 * limit, "a direction's length is 1 an element on average"


def test_where_checks_have_looked_steps_go_a_little_farther() -> None:
    model = Bowl(spectrum())
    opt = auto(model, zo_eps=1e-4)
    until_chosen(opt, model)
    opt.step_size.load_state_dict({**opt.step_size.state_dict(), "farthest": 1e-4, "past": {"steps": []}})
    limits = [1e-4]
    for _ in range(100):
        before = model.w.detach().clone()
        opt.step(model)
        moved = float((model.w.detach() - before).square().mean().sqrt())
        assert moved <= 2.0 * limits[-1], "a direction's length is 1 an element on average"
        limits.append(opt.step_size.state_dict()["farthest"])
    assert all(before <= after <= 1.001 * FARTHER * before for before, after in itertools.pairwise(limits))
    assert limits[-1] > 4.0 * limits[0]


def test_a_restored_state_is_not_shared_with_what_it_was_restored_from() -> None:
    model = Bowl(spectrum())
    opt = auto(model, zo_eps=1e-3)
    for _ in range(20):
        opt.step(model)
    saved = opt.step_size.state_dict()
    as_saved = json.dumps(saved)
    model = Bowl(spectrum())
    other = auto(model, zo_eps=1e-3)
    other.step_size.load_state_dict(saved)
    for _ in range(20):
        other.step(model)
    assert json.dumps(saved) == as_saved


def test_one_loss_that_is_not_finite_shows_among_a_hundred_thousand_micro_batches() -> None:
    assert not sides.is_real(sides.UNREAL / 100_000) and sides.is_real(1e20)


def test_a_spike_in_the_loss_shrinks_the_step_which_then_recovers() -> None:
    model = Bowl(spectrum())
    opt, rates = auto(model, zo_eps=1e-3), []
    for step in range(150):
        opt.step(lambda s=step: model() + (1e3 if 60 <= s < 70 else 0.0))  # type: ignore[misc]
        rates.append(opt.step_size.figures["zo_lr"])
    assert min(rates[60:75]) < 0.6 * rates[59]
    assert rates[-1] > 1.5 * min(rates[60:75])


def test_a_single_long_step_is_shortened_counts_for_little_and_is_checked_at_once() -> None:
    model = Bowl(spectrum())
    opt, moved, squares, due = auto(model, zo_eps=1e-3), [], [], []
    for step in range(60):
        before = model.w.detach().clone()
        due.append(bool(opt.step_size.points()))
        opt.step(lambda s=step: (1e4 if s == 50 else 1.0) * model())  # type: ignore[misc]
        moved.append(float((model.w.detach() - before).norm()))
        squares.append(opt.step_size.state_dict()["square"])
    assert moved[50] < 2.5 * max(moved[20:50])
    assert squares[50] <= (1.0 + 0.05 * LONGEST**2) * squares[49]  # a twentieth new a step
    assert due[51] and not all(due[40:50])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_probe_that_is_not_finite_halves_the_step_and_stops_nothing(bad: float) -> None:
    model = Bowl(spectrum())
    opt = auto(model, zo_eps=1e-3)
    for _ in range(STEPS):
        opt.step(model)
    rate, calls = opt.step_size.figures["zo_lr"], 0

    def loss() -> torch.Tensor:
        nonlocal calls
        calls += 1
        return model() * (bad if calls > 2 else 1.0)  # the estimate comes first

    while calls <= 2:
        calls = 0
        opt.step(loss)
    assert opt.step_size.figures["zo_lr"] <= 0.6 * rate and torch.isfinite(model.w).all()
    seam = opt.loss(lambda: model())
    assert math.isfinite(seam.item())


@pytest.mark.parametrize("flat", [False, True], ids=["seen before", "not seen before"])
def test_one_check_counts_for_at_most_three_times_the_curvature_that_was_seen(flat: bool) -> None:
    model = Bowl(spectrum())
    opt, means, spiked = auto(model, zo_eps=1e-3), [0.0], False
    slopes = 0.1 * torch.ones(64, dtype=torch.float64)
    for step in range(160):
        spikes = step >= 40 and not spiked and bool(opt.step_size.points())  # at the first check
        spiked = spiked or spikes
        bend = 1e4 if spikes else 0.0 if flat else 1.0
        opt.step(lambda b=bend: b * model() + (slopes * model.w).sum())  # type: ignore[misc]
        means.append(Curvature(**opt.step_size.state_dict()["curvature"]).bound)
    assert spiked
    grew = [after / before for before, after in itertools.pairwise(means) if before]
    assert (max(grew) > 1e3) == flat


def test_curvature_is_believed_up_to_two_standard_errors_above_its_mean() -> None:
    known = Curvature()
    assert known.bound == 0.0
    known.add(weight=1.0, mean=5.0, square=25.0, rounding=0.0, count=16)  # 16 measurements, all alike
    assert known.bound == pytest.approx(5.0 + 2.0 * 5.0 / 4.0)
    known.add(weight=4.0, mean=10.0, square=100.0, rounding=0.0)  # one, along a step of twice the usual length
    mean, square = (16 * 5.0 + 4.0 * 10.0) / 20.0, (16 * 25.0 + 4.0 * 100.0) / 20.0
    bound = mean + 2.0 * math.sqrt(square * (16 * 1.0 + 16.0)) / 20.0
    assert known.bound == pytest.approx(bound)
    known.fade(0.5)
    assert known.bound == pytest.approx(bound), "all fade alike"
    known.add(weight=1.0, mean=5.0, square=25.0, rounding=0.0, count=1000)
    assert known.bound == pytest.approx(5.0, rel=0.1), "many measurements leave little doubt"


def test_curvature_of_both_signs_says_less_than_its_sizes_and_never_nothing() -> None:
    values = [100.0 * (-1) ** number for number in range(40)]
    known = Curvature()
    for value in values:
        known.add(1.0, value, value * value, 0.0)
    assert known.bound == pytest.approx(2.0 * 100.0 / math.sqrt(40))
    falling = Curvature()
    falling.add(1.0, -100.0, 1e4, 0.0, 40)
    assert falling.bound == pytest.approx(known.bound), "what bends down only is no reason to stop"


@pytest.mark.parametrize("noise", [0.0, 5.0])
def test_the_size_of_curvature_is_the_frobenius_norm_whatever_its_signs_and_rounding(noise: float) -> None:
    rng = torch.Generator().manual_seed(0)
    eigenvalues = torch.randn(64, generator=rng, dtype=torch.float64)
    directions = torch.randn(20_000, 64, generator=rng, dtype=torch.float64)
    rounded = noise * torch.randn(20_000, generator=rng, dtype=torch.float64)
    known = Curvature()
    for value in (directions.square() @ eigenvalues + rounded).tolist():
        known.add(1.0, value, value * value, noise * noise)
    assert known.size == pytest.approx(torch.linalg.norm(eigenvalues).item(), rel=0.03)
    alike = Curvature()
    alike.add(1.0, 3.0, 9.0, 0.0, 8)
    assert alike.size == 0.0 and Curvature().size == 0.0


@pytest.mark.parametrize(("noise", "part", "least"), [(0.0, 0.95, 0.05), (100.0, 0.5, 0.25), (1000.0, 0.01, 0.25)])
def test_curvature_of_both_signs_limits_how_much_slopes_grow_in_a_step(noise: float, part: float, least: float) -> None:
    """On a saddle the mean curvature is nothing, so that it alone would let a step go much farther.

    The slopes' part that other batches confirm bears the growth of all. Without noise, doubt about the mean says less.
    """
    spread = 100.0 * torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(32)
    model, rng = Bowl(spread), torch.Generator().manual_seed(0)
    nn.init.zeros_(model.w)
    opt = auto(model, zo_eps=1e-2)
    for _ in range(40):
        push = 100.0 + noise * torch.randn(64, generator=rng, dtype=torch.float64)
        opt.step(lambda push=push: model() + (push * model.w).sum())  # type: ignore[misc]
    confirmed = Signal(**opt.step_size.state_dict()["signal"]).share
    assert confirmed == pytest.approx(part, abs=0.2)
    growth = (opt.step_size.figures["zo_lr"] * torch.linalg.norm(spread).item()) ** 2
    assert least < growth / (STEADY * confirmed) ** 2 < 2.0


def slopes_on_two_batches(part: float, count: int) -> Iterator[tuple[float, float]]:
    """What directions were to gain, and what another batch confirms of it, where slopes have that correlation."""
    rng = torch.Generator().manual_seed(0)
    own, noise = torch.randn(2, count, generator=rng, dtype=torch.float64)
    other = part * own + math.sqrt(1.0 - part * part) * noise
    yield from zip((own * own).tolist(), (own * other).tolist(), strict=True)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.3, 0.6, 0.9])
def test_the_signal_becomes_the_confirmed_part(part: float) -> None:
    signal = Signal()
    for own, confirmed in slopes_on_two_batches(part, 2000):
        signal.add(own, confirmed, keep=1.0)
    assert signal.share == pytest.approx(part, abs=0.06)


def test_the_signal_is_thought_small_until_it_is_seen_and_a_clear_one_is_believed_soon() -> None:
    signal, none = Signal(), Signal()
    assert 0.2 < signal.share < 0.25
    for number in range(6):
        signal.add(own=1.0, confirmed=0.9, keep=1.0)
        none.add(own=1.0, confirmed=0.9 if number % 2 else -0.9, keep=1.0)
    assert signal.share > 0.9 and none.share < 0.2
    for number in range(60):
        none.add(own=1.0, confirmed=0.9 if number % 2 else -0.9, keep=1.0)
    assert none.share < 0.1


def test_one_batch_that_says_the_opposite_does_not_undo_what_many_said_and_old_ones_fade() -> None:
    signal = Signal()
    for own, confirmed in slopes_on_two_batches(0.8, 50):
        signal.add(own, confirmed, keep=1.0)
    signal.add(own=1.0, confirmed=-16.0, keep=1.0)
    assert signal.share > 0.6
    for own, confirmed in slopes_on_two_batches(0.0, 150):
        signal.add(own, confirmed, keep=0.97)
    assert signal.share < 0.15


def test_the_step_size_follows_curvature_down_within_bounds() -> None:
    model = Bowl(spectrum())
    opt, rates = auto(model, zo_eps=1e-3), []
    for step in range(120):
        model.scale = 1.0 if step < 60 else 30.0
        opt.step(model)
        rates.append(opt.step_size.figures["zo_lr"])
    assert rates[-1] < rates[59] / 8
    assert all(after >= before / SHRINK / 2.0 for before, after in itertools.pairwise(rates[20:]))


def test_a_loss_that_shows_no_curvature_at_all_moves_nothing() -> None:
    """Powers of two, so that nothing is rounded: the loss is 0 at 0, and exactly linear."""
    model = Bowl(spectrum())
    with torch.no_grad():
        model.w.zero_()
    opt = auto(model, zo_eps=2.0**-10, distribution="rademacher")
    for _ in range(STEPS):
        opt.step(lambda: model.w.sum())
    assert opt.step_size.figures["zo_lr"] == 0.0 and not model.w.any()


# --- a function of the log -----------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["closure", "seam"])
@pytest.mark.parametrize(
    "method",
    [name if name == "conservative" else pytest.param(name, marks=pytest.mark.slow) for name in ABLE],
)
def test_base_and_log_are_the_trained_weights(method: str, style: str, tmp_path: Path) -> None:
    run = start(tmp_path / "log", method=method, zo_lr="auto", zo_eps=None, style=style, schedule=False)
    run.steps(0, STEPS).opt.close_log()
    records = ReplayLog.open(tmp_path / "log").records
    assert records[0].lrs == (0.0,) and records[-1].lrs[0] > 0.0
    base = start().model
    assert digest(base) != digest(run.model)
    zoft.replay(base, tmp_path / "log")
    assert digest(base) == digest(run.model)


@pytest.mark.parametrize("stop", [pytest.param(1, marks=pytest.mark.slow), 5, pytest.param(15, marks=pytest.mark.slow)])
@pytest.mark.parametrize("zo_eps", [None, 1e-2], ids=["measured", "given"])
@pytest.mark.parametrize("schedule", [False, True], ids=["constant", "falling"])
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(
    schedule: bool, zo_eps: float | None, stop: int, tmp_path: Path
) -> None:
    """From its state, and from its log alone; neither measures again what is known."""
    settings: dict[str, Any] = {"zo_lr": "auto", "zo_eps": zo_eps, "schedule": schedule}
    whole = start(tmp_path / "whole", **settings).steps(0, STEPS)
    part = start(tmp_path / "part", **settings).steps(0, stop)
    state = part.opt.state_dict()
    part.opt.close_log()

    loaded = start(**settings)
    loaded.model.load_state_dict(part.model.state_dict())
    loaded.opt.load_state_dict(state)
    loaded.scheduler.load_state_dict(part.scheduler.state_dict())
    logged = start(**settings)
    logged.opt.resume_log(tmp_path / "part")
    for again, first in ((loaded, stop), (logged, 0)):
        again.steps(first, STEPS)
        assert digest(again.model) == digest(whole.model)
        assert again.opt.last_record == whole.opt.last_record
        assert again.opt.step_size.state_dict() == whole.opt.step_size.state_dict()
    assert logged.calls == loaded.calls, "the log's steps evaluate nothing"


def test_skipped_steps_leave_no_trace(tmp_path: Path) -> None:
    run = start(tmp_path / "log", zo_lr="auto", zo_eps=1e-2, bad=(3, 12), schedule=False).steps(0, STEPS)
    run.opt.close_log()
    assert [r.step for r in ReplayLog.open(tmp_path / "log").records if r.skipped] == [3, 12]
    assert all(math.isfinite(value) for value in run.opt.step_size.figures.values())
    base = start().model
    zoft.replay(base, tmp_path / "log")
    assert digest(base) == digest(run.model)


def test_a_skipped_steps_infinite_loss_says_nothing_of_curvature() -> None:
    """The check of such a step may still be finite, for it looks elsewhere."""
    model, rates = Bowl(spectrum()), []
    opt = auto(model, zo_eps=1e-3, nonfinite="skip")
    for step in range(160):
        calls = itertools.count()
        opt.step(lambda s=step, c=calls: model() * (math.inf if next(c) == 0 and 40 <= s < 50 else 1.0))  # type: ignore[misc]
        rates.append(opt.step_size.figures["zo_lr"])
    assert math.isfinite(opt.step_size.state_dict()["curvature"]["total"])
    assert rates[-1] > rates[39] / 2


def test_a_step_whose_estimate_is_zero_is_not_taken_for_the_one_before() -> None:
    model = Bowl(spectrum())
    opt = auto(model, zo_eps=1e-3)
    for _ in range(40):
        opt.step(model)
    while len(opt.step_size.state_dict()["past"]["steps"]) < 2:
        opt.step(model)
    before = opt.step_size.state_dict()
    opt.param_groups[0]["lr"] = 0.5  # of the present step, not of the one before
    opt.step(lambda: torch.ones(()))
    after = opt.step_size.state_dict()
    assert opt.last_record is not None and opt.last_record.scalars == (0.0,)
    assert {k: after[k] for k in ("past", "square", "gain")} == {k: before[k] for k in ("past", "square", "gain")}


def test_micro_batches_are_probed_as_one_batch() -> None:
    """The means of two halves are the whole; tolerance: the float32 loss's last places over zo_eps squared."""
    runs = [start(zo_lr="auto", zo_eps=1e-1, style=s, schedule=False).steps(0, 12) for s in ("closure", "seam")]
    one, two = (run.opt.step_size.figures["zo_lr"] for run in runs)
    assert one == pytest.approx(two, rel=0.02)


def test_forwards_are_counted() -> None:
    run = start(zo_lr="auto", zo_eps=None, schedule=False)
    run.step(0)
    first = run.calls
    run.steps(1, STEPS)
    estimates = STEPS * run.opt.engine.method.estimator.forwards
    proof = first - ladder.NUM_POINTS - 2  # of reach, once
    assert run.calls == estimates + run.opt.step_size.forwards + proof


def test_with_a_given_zo_eps_the_first_step_moves_and_with_a_measured_one_the_second() -> None:
    for zo_eps, waits in ((1e-3, 0), (None, 1)):
        model = Bowl(spectrum())
        opt, rates = auto(model, zo_eps=zo_eps), []
        for _ in range(3):
            opt.step(model)
            rates.append(opt.step_size.figures["zo_lr"])
        assert [rate > 0.0 for rate in rates] == [step >= waits for step in range(3)]


def test_probing_costs_a_twentieth_of_a_long_run() -> None:
    """And what is spent at the start, and while the step size grows to what it should be."""
    model = Bowl(spectrum())
    opt = auto(model, zo_eps=1e-3)
    for _ in range(2000):
        opt.step(model)
    estimates = 2 * 2000
    assert 0.05 * estimates < opt.step_size.forwards < 17 + 0.05 * estimates + 3.0 * math.sqrt(estimates) + 30


# --- learning rates are relative -----------------------------------------------------------------------


def groups(model: nn.Module) -> list[dict[str, Any]]:
    parameters = list(model.parameters())
    return [{"params": parameters[:2], "lr": 1.0}, {"params": parameters[2:], "lr": 0.25}]


def test_schedules_and_ratios_keep_their_meaning_and_the_learning_rate_has_none() -> None:
    records: list[StepRecord | None] = []
    for lr in (1.0, 1e-6):
        run = start(zo_lr="auto", zo_eps=1e-2, lr=lr)
        run.steps(0, 12)
        records.append(run.opt.last_record)
    assert records[0] is not None and records[1] is not None
    assert records[0].lrs == pytest.approx(records[1].lrs, rel=1e-6)

    run = start(zo_lr="auto", zo_eps=1e-2, param_groups=groups)
    run.steps(0, 11)
    rate = run.opt.step_size.figures["zo_lr"]
    assert run.opt.last_record is not None and run.opt.last_record.lrs[0] > 0.0
    assert run.opt.last_record.lrs[1] == pytest.approx(run.opt.last_record.lrs[0] / 4, rel=1e-6)
    # Of the usual rate; what is low already is not lowered once more.
    expected = min(rate, (1 - 10 / 12) * scheduled(run.opt.step_size.state_dict()))
    assert run.opt.last_record.lrs[0] == pytest.approx(expected, rel=1e-6)


def test_without_auto_nothing_is_probed_and_records_are_as_they_were(tmp_path: Path) -> None:
    run: Run = start(tmp_path / "log", schedule=False).steps(0, 2)
    run.opt.close_log()
    assert run.opt.step_size.forwards == 0 and run.opt.step_size.figures == {} and run.opt.step_size.said == ""
    assert ReplayLog.open(tmp_path / "log").records[0].probe == ()


# --- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(method_names()) - set(ABLE)))
def test_methods_whose_steps_are_not_along_the_estimate_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"zo_lr='auto' does not go with method '{name}'.*use one of: .*mezo"):
        build_method(zoft.ZOConfig(method=name, zo_lr="auto"))


def test_rules_with_a_memory_and_methods_that_move_no_weights_are_refused() -> None:
    with_a_memory = {"adam", "adamezo", "momentum", "sign", "conmezo", "svrg", "lozo_m", "subzero_plus"}
    assert set(method_names()) - set(ABLE) == with_a_memory | {"forward_grad", "grzo"}


@pytest.mark.parametrize("bad", ["Auto", 1e-3, True])
def test_other_values_are_refused(bad: Any) -> None:
    with pytest.raises(ConfigError, match=r"zo_lr must be 'auto' or None, got .*learning_rate"):
        zoft.ZOConfig(method="mezo", zo_lr=bad)


def test_a_learning_rate_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="must not be 0"):
        zoft.ZOOptimizer(Bowl(spectrum()), 0.0, zoft.ZOConfig(method="mezo", zo_lr="auto"))


def test_a_log_with_auto_is_not_resumed_without(tmp_path: Path) -> None:
    run = start(tmp_path / "log", zo_lr="auto", zo_eps=1e-2).steps(0, 2)
    run.opt.close_log()
    other = start(zo_eps=1e-2)
    with pytest.raises(zoft.ZoftError, match="zo_lr"):
        other.opt.resume_log(tmp_path / "log")
    assert dataclasses.replace(zoft.ZOConfig(method="mezo"), zo_lr="auto").to_dict()["zo_lr"] == "auto"
