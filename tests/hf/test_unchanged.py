"""A run that changed no bit of a trained weight is an error that says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import zoft
from tests.core.conftest import make
from tests.hf.conftest import trainer_of
from tests.methods import methods
from zoft.errors import UnchangedError
from zoft.hf.unchanged import why_unchanged
from zoft.types import StepRecord


def record(step: int, scalar: float = 1.0, lr: float = 1e-3, *, skipped: bool = False) -> StepRecord:
    return StepRecord(step, 1.0, (scalar,), (lr, 0.0), skipped)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([record(0, skipped=True), record(1, skipped=True)], "each was dropped because its loss was not finite"),
        ([record(0, lr=0.0), record(1, skipped=True)], "the learning rate was 0 at each"),
        (
            [record(0, 0.0), record(1, 5.0, lr=0.0)],
            r"exactly zero.*\(a, b, c and 1 more\), or zo_eps=0.01 is too small",
        ),
        ([record(0, 0.0), record(1, 1e-9)], "at a learning rate of at most 1.0e-03 the updates are smaller"),
    ],
)
def test_the_reason_is_read_off_the_records(records: list[StepRecord], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(why_unchanged(records, list, ["a", "b", "c", "d"], 1e-2))


@pytest.mark.parametrize("method", methods())
def test_updates_that_round_to_nothing_are_an_error_and_the_log_stays(method: str, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, learning_rate=1e-30, max_steps=3, zo=zoft.ZOConfig(method=method))
    with pytest.raises(UnchangedError, match=r"no trained weight changed by a single bit in 3 steps: .*Raise"):
        trainer.train()
    base, _ = make("llama")
    assert zoft.replay(base, tmp_path / "zo_log") == 3


@pytest.mark.filterwarnings("ignore:.*trained, but the loss does not depend:zoft.ZoftWarning")
@pytest.mark.parametrize("placement", ["stream", "snapshot"])
def test_a_loss_that_does_not_depend_on_what_is_trained_is_an_error_that_names_it(
    placement: str, tmp_path: Path
) -> None:
    model, _ = make("llama")
    model.unused = nn.Linear(3, 3)
    zo = zoft.ZOConfig(method="mezo", include=["unused*"], placement=placement)
    with pytest.raises(UnchangedError, match=r"does not depend on what is trained \(unused\.weight, unused\.bias\)"):
        trainer_of(tmp_path, model=model, zo=zo).train()


def test_steps_that_were_all_dropped_are_an_error(tmp_path: Path) -> None:
    model, _ = make("llama")
    model.register_forward_hook(lambda module, args, output: {"loss": output.loss * float("nan")})
    with pytest.raises(UnchangedError, match="each was dropped because its loss was not finite"):
        trainer_of(
            tmp_path, model=model, zo=zoft.ZOConfig(method="mezo", nonfinite="skip", placement="snapshot")
        ).train()


def test_a_schedule_that_never_leaves_zero_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnchangedError, match="the learning rate was 0 at each"):
        trainer_of(tmp_path, max_steps=1, warmup_steps=10).train()


def test_a_learning_rate_of_zero_is_taken_at_its_word(tmp_path: Path) -> None:
    with pytest.warns(zoft.ZoftWarning, match="no trained weight changed by a single bit in 2 steps"):
        trainer_of(tmp_path, max_steps=2, learning_rate=0.0).train()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_one_changed_bit_anywhere_is_a_change(dtype: torch.dtype, tmp_path: Path) -> None:
    """Weight decay of the matrices alone, at a projected gradient of zero."""
    model, _ = make("llama", dtype)
    model.unused = nn.Linear(3, 3, dtype=dtype)
    options: dict[str, Any] = {
        "zo": zoft.ZOConfig(method="mezo", include=["unused*"], placement="snapshot"),
        "max_steps": 1,
    }
    trainer_of(tmp_path, model=model, weight_decay=0.1, learning_rate=0.5, **options).train()


def test_a_resumed_run_that_has_nothing_left_to_do_is_no_error(tmp_path: Path) -> None:
    trainer_of(tmp_path, save_strategy="steps", save_steps=4).train()
    trainer_of(tmp_path).train(resume_from_checkpoint=True)


def test_a_run_that_ends_before_its_step_size_is_measured_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnchangedError, match="the step size was still being measured"):
        trainer_of(tmp_path, max_steps=1, zo=zoft.ZOConfig(method="mezo", zo_lr="auto")).train()
