"""Where two runs part is named: what they started from, the first step, the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.core.runs import start
from tests.core.test_replay import truncated
from tests.methods import methods
from zoft.log_file import ReplayLog
from zoft.replay_diff import diff_logs, differing_fields
from zoft.types import StepRecord

STEPS = 4


def log_of(path: Path, steps: int = STEPS, **options: Any) -> ReplayLog:
    start(path, **options).steps(0, steps)
    return ReplayLog.open(path)


@pytest.mark.parametrize("method", methods())
def test_the_same_run_twice_is_identical_also_where_a_loss_was_nan(method: str, tmp_path: Path) -> None:
    logs = [log_of(tmp_path / name, method=method, bad=(1,)) for name in "ab"]
    found = diff_logs(*logs)
    assert found.identical and found.lines() == [f"all {STEPS} steps are identical"]


def test_one_that_is_the_beginning_of_the_other(tmp_path: Path) -> None:
    whole = log_of(tmp_path / "whole")
    part = ReplayLog.open(truncated(tmp_path / "whole", tmp_path / "part", 0))
    part.records.extend(whole.records[:3])
    for pair, words in (
        ((whole, part), "the second ends after 3 steps, with which the first (4) begins"),
        ((part, whole), "the first ends after 3 steps, with which the second (4) begins"),
    ):
        found = diff_logs(*pair)
        assert not found.identical and found.common == 3 and found.lines() == [words]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"seed": 1}, "seed: 0 | 1"),
        ({"zo_eps": 2e-2}, "zo_eps: 0.01 | 0.02"),
        ({"distribution": "rademacher"}, "distribution: 'gaussian' | 'rademacher'"),
        ({"num_queries": 2}, "num_scalars: 1 | 2"),
        ({"weight_decay": 0.1}, "weight_decays: [0.0] | [0.1, 0.0]"),
        ({"exclude": ("lm_head*",)}, "trained parameters: lm_head.weight differs first: group 0 | absent"),
    ],
)
def test_a_setting_is_named_with_both_values(changes: dict[str, Any], line: str, tmp_path: Path) -> None:
    found = diff_logs(log_of(tmp_path / "a"), log_of(tmp_path / "b", **changes))
    assert not found.identical and line in found.lines()


def test_settings_that_move_no_weight_are_no_difference(tmp_path: Path) -> None:
    assert diff_logs(log_of(tmp_path / "a"), log_of(tmp_path / "b", placement="snapshot")).identical


def test_the_first_different_base_tensor_is_named(tmp_path: Path) -> None:
    a, b = log_of(tmp_path / "a"), log_of(tmp_path / "b")
    name = "model.layers.1.mlp.up_proj.weight"
    b.header["base"][name] = "float32[24, 16] 0"
    b.header["base"]["lm_head.weight"] = "float32[96, 16] 0"
    line = diff_logs(a, b).base
    assert line.startswith(f"base weights: {name} differs first: float32[24, 16] ")
    assert line.endswith(" | float32[24, 16] 0 (and 1 more)")
    other = log_of(tmp_path / "c", dtype=torch.bfloat16)
    assert diff_logs(a, other).base.startswith("base weights: model.embed_tokens.weight differs first: float32[96, 16]")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("scalars", (5.0,), "scalars ({0},) | (5.0,)"),
        ("lrs", (5.0,), "lrs ({2},) | (5.0,)"),
        ("loss", 5.0, "loss {1} | 5.0"),
        ("skipped", True, "skipped False | True"),
    ],
)
def test_the_first_different_step_and_its_field_are_named(field: str, value: Any, words: str, tmp_path: Path) -> None:
    a, b = log_of(tmp_path / "a"), log_of(tmp_path / "b")
    mine = a.records[2]
    b.records[2] = StepRecord(**{**vars(mine), field: value})
    b.records[3] = StepRecord(3, 0.0, (0.0,), (0.0,))
    found = diff_logs(a, b)
    assert found.common == 2 and not found.identical
    assert found.lines() == ["step 2 differs first: " + words.format(mine.scalars[0], mine.loss, mine.lrs[0])]


def test_numbers_are_compared_bit_by_bit() -> None:
    nan, zero = StepRecord(0, float("nan"), (0.0,), (1.0,)), StepRecord(0, 1.0, (0.0,), (1.0,))
    assert differing_fields(nan, nan) == []
    assert differing_fields(zero, StepRecord(0, 1.0, (-0.0,), (1.0,))) == ["scalars"]
    assert differing_fields(nan, zero) == ["loss"]
