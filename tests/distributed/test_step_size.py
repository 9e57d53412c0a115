"""``zo_lr="auto"`` in several processes: all choose what one process chooses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import zoft
from tests.core.conftest import make
from tests.core.runs import batch, digest
from tests.distributed.ranks import run_ranks
from tests.distributed.test_replicas import mean_loss
from zoft.replay_log import ReplayLog

STEPS = 13  # of which the last ones move


def train(log: str, query_parallel: int) -> tuple[str, str]:
    """Steps over batches of 16 rows, of which each group of ranks sees its part."""
    model, _ = make("llama", torch.float64)
    config = zoft.ZOConfig(
        method="mezo", zo_lr="auto", num_queries=2, query_parallel_size=query_parallel, replica_check_steps=4
    )
    opt = zoft.ZOOptimizer(model, 1.0, config, log=log)
    for step in range(STEPS):
        rows = batch(step, 16).chunk(opt.replicas.data_size)[opt.replicas.data_rank]
        opt.step(lambda rows=rows: mean_loss(model, rows))  # type: ignore[misc]
    opt.check_replicas()
    opt.close_log()
    return digest(model), opt.step_size.said


@pytest.mark.parametrize(
    "query_parallel",
    [pytest.param(1, id="data-parallel"), pytest.param(2, id="query-parallel", marks=pytest.mark.slow)],
)
def test_two_processes_choose_what_one_chooses(query_parallel: int, tmp_path: Path) -> None:
    """Float64 losses are means of halves; tolerance: their rounding, over zo_eps squared."""
    ((_, said),) = run_ranks(1, train, str(tmp_path / "one"), 1)
    first, second = run_ranks(2, train, str(tmp_path / "two"), query_parallel)
    assert first == second and said
    one, two = (ReplayLog.open(tmp_path / name).records for name in ("one", "two"))
    assert one[-1].lrs[0] > 0.0
    for a, b in zip(one, two, strict=True):
        assert b.lrs == pytest.approx(a.lrs, rel=1e-4) and b.probe[0] == a.probe[0]
