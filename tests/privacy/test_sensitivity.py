"""One example more or less changes a sum by at most the clip threshold: exactly, as integers, whatever the example."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.privacy.linear import BATCH, closures, start
from zoft.distributed import Replicas
from zoft.errors import ConfigError
from zoft.optim import private as private_steps
from zoft.privacy.clipping import CLIPPED, clip_to_grid
from zoft.privacy.mechanism import PrivateSum

EXTREME = (math.nan, math.inf, -math.inf, 1e30, -1e30, 1e300, -1e300, 1.7e308, 5e-324, 1e-310, 0.0, -0.0, 1.0, -1.0)
SLOPES = st.sampled_from(EXTREME) | st.floats() | st.floats(-3.0, 3.0)
THRESHOLDS = st.sampled_from((1e-30, 1e-3, 0.1, 1.0, 8.0, 1e30)) | st.floats(1e-6, 1e6)


@st.composite
def batches(draw: Any) -> np.ndarray:
    """Slopes of examples, [1 to 9, 1 to 64]."""
    shape = draw(st.tuples(st.integers(1, 9), st.sampled_from((1, 2, 3, 8, 64)) | st.integers(1, 64)))
    slopes: np.ndarray = draw(arrays.arrays(np.float64, shape, elements=SLOPES))
    return slopes


@dataclass(frozen=True)
class Together(Replicas):
    """All ranks of a run in one process: the sums that each has."""

    sums: tuple[tuple[int, ...], ...] = ()

    def _gathered(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        return [torch.tensor(mine[: tensor.numel()], dtype=tensor.dtype) for mine in self.sums]


def summed(batch: list[list[float]], owner: list[int], ranks: int, clip_threshold: float, width: int) -> list[int]:
    """The sum over ranks, each of which adds its examples one after the other, as micro-batches do."""
    sums = [PrivateSum(width, clip_threshold) for _ in range(ranks)]
    for slopes, rank in zip(batch, owner, strict=True):
        sums[rank].add(slopes)
    return Together(0, ranks, 1, tuple(tuple(mine.total) for mine in sums)).total(sums[0].total)


def check_neighbours(data: Any) -> None:
    slopes: list[list[float]] = data.draw(batches()).tolist()
    clip_threshold = data.draw(THRESHOLDS)
    ranks = data.draw(st.integers(1, 4))
    place = st.lists(st.integers(0, ranks - 1), min_size=len(slopes), max_size=len(slopes))
    width, without = len(slopes[0]), slopes[:-1]  # none, now and then
    more = summed(slopes, data.draw(place), ranks, clip_threshold, width)
    less = summed(without, data.draw(place)[:-1], ranks, clip_threshold, width)
    assert all(type(x) is int for x in more)
    assert sum((a - b) ** 2 for a, b in zip(more, less, strict=True)) <= CLIPPED**2
    assert [a - b for a, b in zip(more, less, strict=True)] == clip_to_grid(slopes[-1], clip_threshold)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_an_example_changes_a_sum_by_its_own_clipped_vector(data: Any) -> None:
    """Over ranks and micro-batches, however the other examples are parted among them."""
    check_neighbours(data)


@pytest.mark.slow
@settings(max_examples=12_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_ten_thousand_neighbouring_batches(data: Any) -> None:
    check_neighbours(data)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(arrays.arrays(np.float64, st.integers(1, 64), elements=SLOPES), THRESHOLDS)
def test_a_clipped_vector_is_the_vector_shortened(slopes: np.ndarray, clip_threshold: float) -> None:
    """By exact arithmetic, to two grid steps; what is not finite adds nothing."""
    got = clip_to_grid(slopes.tolist(), clip_threshold)
    assert sum(step * step for step in got) <= CLIPPED**2
    if not np.isfinite(slopes).all():
        assert got == [0] * len(slopes)
        return
    exact = [Fraction(x) / Fraction(clip_threshold) * CLIPPED for x in slopes.tolist()]
    square = sum(x * x for x in exact)
    if square > CLIPPED**2:
        scaled = Fraction(math.isqrt(int(square * 2**40)), 2**20)  # the norm, to a millionth of a grid step
        exact = [x * CLIPPED / scaled for x in exact]
    assert all(abs(step - x) <= 2 for step, x in zip(got, exact, strict=True))


def test_no_rounding_makes_a_vector_at_the_threshold_too_long() -> None:
    """Equal coordinates, which all round the same way, at and around the threshold."""
    for width in range(1, 65):
        at = 1.0 / math.sqrt(width)
        for coordinate in (at, np.nextafter(at, 2), np.nextafter(at, 0), 1e300):
            got = clip_to_grid([float(coordinate)] * width, 1.0)
            assert 0.999 * CLIPPED**2 < sum(step * step for step in got) <= CLIPPED**2


# --- through the optimizer --------------------------------------------------------------------------------


@pytest.fixture
def totals(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The secret sums that steps publish, before the noise."""
    seen: list[list[int]] = []
    release = private_steps.release

    def record(total: list[int], **options: Any) -> list[float]:
        seen.append(list(total))
        return release(total, **options)

    monkeypatch.setattr(private_steps, "release", record)
    return seen


def scales() -> list[float]:
    """Examples of all sizes, among them those that would drown or spoil the others."""
    return [0.01, 1e30, math.nan, -0.5, math.inf, 3.0, 1e300, 0.02, -math.inf, 1e-300]


@pytest.mark.parametrize("num_queries", [1, 5])
def test_steps_on_neighbouring_batches_differ_by_one_clipped_vector(
    num_queries: int, tmp_path: Path, totals: list[list[int]]
) -> None:
    """Each example is left out in turn, and taken alone."""
    examples = scales()

    def total_of(numbers: list[int], name: str, parts: int = 1) -> list[int]:
        opt = start(tmp_path / name, num_queries=num_queries)
        all_of_them = closures(opt, examples)
        for part in range(parts):  # micro-batches
            opt.loss([all_of_them[n] for n in numbers[part::parts]]).backward()
        opt.step()
        return totals[-1]

    everyone = list(range(len(examples)))
    full = total_of(everyone, "full")
    assert total_of(everyone, "parts", parts=3) == full
    assert total_of([], "none") == [0] * num_queries
    changed = 0
    for n in everyone:
        less = total_of([m for m in everyone if m != n], f"without {n}", parts=1 + n % 3)
        difference = [a - b for a, b in zip(full, less, strict=True)]
        assert difference == total_of([n], f"alone {n}")
        assert sum(x * x for x in difference) <= CLIPPED**2
        if not math.isfinite(examples[n]):
            assert difference == [0] * num_queries
        changed += any(difference)
    assert changed == 6, "finite examples count, but for the one below a grid step"


def test_a_measuring_step_counts_an_example_once_at_most(tmp_path: Path, totals: list[list[int]]) -> None:
    """Its sensitivity is one, in units of one example; what is not finite is not within the threshold."""
    opt = start(tmp_path / "log", num_queries=3, clip_threshold=None, dp_clip_quantile=0.5, dp_clip_steps=2)
    before = opt.engine.model.weight.detach().clone()
    opt.step(closures(opt, scales()))
    small = sum(abs(scale) < 0.1 for scale in scales())
    assert totals[-1] == [small * CLIPPED]
    opt.step([])
    assert totals[-1] == [0]
    assert torch.equal(opt.engine.model.weight, before), "measuring leaves the weights alone"
    opt.step(closures(opt, [1e30]))
    assert len(totals[-1]) == 3 and 0 < sum(x * x for x in totals[-1]) <= CLIPPED**2


def test_the_divisor_is_the_expected_batch_size_whatever_came(tmp_path: Path, totals: list[list[int]]) -> None:
    """With noise too small to move a grid step."""
    opt = start(tmp_path / "log", num_queries=2, noise_multiplier=1e-9)
    for size in (0, 1, BATCH, 3 * BATCH):
        opt.step(closures(opt, [1.0] * size))
        assert opt.last_record is not None
        assert opt.last_record.scalars == pytest.approx([step / CLIPPED / BATCH for step in totals[-1]])


def test_a_single_closure_is_no_list_of_examples(tmp_path: Path) -> None:
    """The mean over a batch could only be clipped as a whole."""
    opt = start(tmp_path / "log")
    with pytest.raises(ConfigError, match="each example's loss: pass a list"):
        opt.step(lambda: opt.engine.model.weight.sum())
    assert opt.privacy is not None and opt.privacy.charged == 0


@pytest.mark.parametrize("where", ["in an example", "between micro-batches"])
@pytest.mark.parametrize("style", ["closure", "seam"])
def test_examples_of_an_interrupted_step_do_not_count_in_the_next(
    style: str, where: str, tmp_path: Path, totals: list[list[int]]
) -> None:
    """And the second attempt is charged as well."""
    opt = start(tmp_path / "log")

    def interrupted() -> torch.Tensor:
        raise KeyboardInterrupt

    good = closures(opt, [1.0])
    opt.loss(good).backward()
    if where == "in an example":
        with pytest.raises(KeyboardInterrupt):
            opt.loss([*good, interrupted])
    elif style == "seam":
        opt.zero_grad()  # as whoever starts a step over by hand must
    if style == "closure":
        opt.step(good)
    else:
        opt.loss(good).backward()
        opt.step()
    assert 0 < sum(x * x for x in totals[-1]) <= CLIPPED**2
    assert opt.privacy is not None and opt.privacy.charged == 2
