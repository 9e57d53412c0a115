"""A private run of several processes: one batch among them, one noise, one ledger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoft
import zoft.privacy.mechanism
from tests.core.runs import digest
from tests.distributed.ranks import fail_ranks, run_ranks
from tests.privacy.runs import NUM_EXAMPLES, Noise, Run, plan_of, replayed
from tests.privacy.training import private_trainer, uneven_rows
from zoft.distributed import Replicas
from zoft.log_file import ReplayLog
from zoft.privacy import PoissonBatches

# What each of the ranks sees of four steps' batches: parts of different sizes, also none.
PARTS = [[[0, 1, 2], [3]], [[], [4, 5]], [[], []], [[6], []]]


def _silent() -> Noise:
    silent = Noise(lambda total, mechanism, noise_multiplier: list(total))
    zoft.privacy.mechanism.noised = silent  # type: ignore[assignment]  # this process is the test's own
    return silent


def _steps(log: str | None, parts: Sequence[Any], *, noisy: bool) -> tuple[str, list[Any], int, int, float]:
    noise = Noise(zoft.privacy.mechanism.noised) if noisy else _silent()
    zoft.privacy.mechanism.noised = noise  # type: ignore[assignment]
    run, rank = Run(plan_of(), Path(log) if log else None), Replicas.current()
    for part in parts:
        run.step(part[rank.rank] if rank.size > 1 else [number for numbers in part for number in numbers])
    last = run.opt.last_record
    assert last is not None
    run.opt.close_log()
    return digest(run.model), list(last.scalars), len(noise.draws), run.spending.charged, run.spending.epsilon


def _silent_steps(log: str) -> Any:
    return _steps(log, PARTS, noisy=False)


def _noisy_steps(log: str) -> Any:
    return _steps(log, PARTS, noisy=True)


def test_two_processes_release_the_sum_over_the_union_of_their_parts(tmp_path: Path) -> None:
    one = run_ranks(1, _silent_steps, str(tmp_path / "one"))[0]
    two = run_ranks(2, _silent_steps, str(tmp_path / "two"))
    assert [result[0] for result in two] == [one[0]] * 2
    assert [result[2] for result in two] == [4, 0], "the first process alone adds noise"
    assert [result[3:] for result in two] == [one[3:]] * 2
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_with_its_noise_both_have_the_same_weights_and_the_log_replays(tmp_path: Path) -> None:
    two = run_ranks(2, _noisy_steps, str(tmp_path / "log"))
    assert two[0][:2] == two[1][:2] and two[0][0] == replayed(tmp_path / "log")
    assert [result[2] for result in two] == [4, 0]
    log = ReplayLog.open(tmp_path / "log")
    assert log.intents == len(log.records) == 4


def _empty_batches(log: str) -> list[float]:
    run = Run(plan_of(steps=1000), Path(log))
    released = []
    for _ in range(300):
        run.step([])
        assert run.opt.last_record is not None
        released += run.opt.last_record.scalars
    return released


@pytest.mark.slow
def test_the_noise_of_two_processes_has_the_variance_of_one(tmp_path: Path) -> None:
    """Twice would be 2, six standard errors are 0.35."""
    first, second = run_ranks(2, _empty_batches, str(tmp_path / "log"))
    assert first == second
    plan = plan_of()
    unit = plan.noise_multiplier * plan.first_clip / plan.expected_batch_size
    assert np.var(np.array(first) / unit) == pytest.approx(1.0, abs=0.35)


def _crashing(log: str) -> None:
    run = Run(plan_of(), Path(log))
    run.step([0])

    def crash() -> torch.Tensor:
        raise RuntimeError("out of memory")

    run.opt.step([crash] if Replicas.current().rank == 1 else run.closures([1]))


def test_a_rank_that_fails_takes_no_charge_back(tmp_path: Path) -> None:
    failures = fail_ranks(2, _crashing, str(tmp_path / "log"))
    assert failures[1] == ("RuntimeError", "out of memory")
    log = ReplayLog.open(tmp_path / "log")
    assert (log.intents, len(log.records)) == (2, 1)


def test_the_union_of_the_ranks_batches_is_the_one_process_batch() -> None:
    def batches(**place: int) -> list[list[int]]:
        return list(PoissonBatches(NUM_EXAMPLES, 0.3, 20, key=7, **place))

    whole = batches()
    ranks = [batches(rank=rank, world_size=2, micro_batches=3) for rank in range(2)]
    for number, batch in enumerate(whole):
        parts = [part for rank in ranks for part in rank[3 * number : 3 * number + 3]]
        assert sorted(index for part in parts for index in part) == batch


# --- Trainers -------------------------------------------------------------------------------------------


def _trained(
    folder: str, accumulate: int, processes: int, noisy: bool
) -> tuple[str, int, list[list[float]], list[Any]]:
    noise = Noise(zoft.privacy.mechanism.noised) if noisy else _silent()
    zoft.privacy.mechanism.noised = noise  # type: ignore[assignment]
    trainer = private_trainer(
        Path(folder),
        per_device_train_batch_size=16 // processes // accumulate,
        gradient_accumulation_steps=accumulate,
        max_steps=4,
    )
    trainer.train()
    epsilons = [entry["epsilon"] for entry in trainer.state.log_history if "epsilon" in entry]
    return digest(trainer.model), len(noise.draws), noise.sums, epsilons


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_trainers_of_two_processes_release_what_one_does_at_a_sampling_rate_of_one(
    accumulate: int, tmp_path: Path
) -> None:
    one = run_ranks(1, _trained, str(tmp_path / "one"), 1, 1, False)[0]
    two = run_ranks(2, _trained, str(tmp_path / "two"), accumulate, 2, False)
    assert two[0][0] == two[1][0] == one[0] and two[0][2] == one[2]
    assert [result[1] for result in two] == [4, 0]
    assert two[0][3] == two[1][3] == one[3]
    logs = [ReplayLog.open(tmp_path / name / "zo_log") for name in ("one", "two")]
    assert logs[0].header == logs[1].header and logs[0].intents == logs[1].intents == 4


def _resumed(folder: str, max_steps: int) -> tuple[str, int]:
    trainer = private_trainer(
        Path(folder),
        per_device_train_batch_size=2,
        max_steps=max_steps,
        save_strategy="steps",
        save_steps=2,
        train=uneven_rows(12),
        lr_scheduler_type="constant",
    )
    trainer.train(resume_from_checkpoint=Path(folder, "zo_log").exists() or None)
    return digest(trainer.model), trainer.zo_spending.charged


@pytest.mark.slow
def test_two_processes_resume_with_one_ledger(tmp_path: Path) -> None:
    run_ranks(2, _resumed, str(tmp_path), 3)
    first, second = run_ranks(2, _resumed, str(tmp_path), 6)
    assert first == second and first[1] == 6
    from tests.core.conftest import make

    base, _ = make("llama")
    zoft.replay(base, tmp_path / "zo_log")
    assert digest(base) == first[0]
