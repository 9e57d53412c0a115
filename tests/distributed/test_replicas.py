"""Several processes take the step that one takes: the invariance table of processes, batch and accumulation."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import zoft
from tests.core.conftest import make
from tests.core.runs import batch, digest
from tests.distributed.ranks import fail_ranks, outcome, run_ranks, started
from tests.methods import methods
from zoft.distributed import Replicas
from zoft.errors import ConfigError
from zoft.replay_log import ReplayLog

METHODS = methods("mezo", "fzoo")
STEPS = 4


def mean_loss(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The mean over tokens in float64; the model's own loss is taken in float32."""
    return losses_of_examples(model, ids).mean()


def losses_of_examples(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Each row's mean."""
    logits = model(input_ids=ids).logits[:, :-1].double()
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return losses.view(len(ids), -1).mean(1)


def options(method: str) -> dict[str, Any]:
    """One place for each example of the whole batch, where a method has a direction for each."""
    return {"method": method, **({"num_queries": 16} if method == "grzo" else {})}


def train(log: str | None, micro_batches: int = 1, dtype: torch.dtype = torch.float64, **config: Any) -> str:
    """Take steps over batches of 16 rows, of which each group of ranks sees its part, in micro-batches."""
    model, _ = make("llama", dtype)
    loss_of = losses_of_examples if config.get("method") == "grzo" else mean_loss
    opt = zoft.ZOOptimizer(
        model, 1e-2, zoft.ZOConfig(**{"method": "mezo", "zo_eps": 1e-2, "num_queries": 4, **config}), log=log
    )
    mine = opt.replicas
    for step in range(STEPS):
        rows = batch(step, 16).chunk(mine.data_size)[mine.data_rank]
        for part in rows.chunk(micro_batches):
            loss = opt.loss(lambda part=part: loss_of(model, part))  # type: ignore[misc]
            (loss / micro_batches).backward()
        opt.step()
    opt.close_log()
    return digest(model)


# (processes, ranks that share a batch, micro-batches)
TABLE = {
    "2 x 8 rows": (2, 1, 1),
    "2 x 2 x 4 rows": (2, 1, 2),
    "2 ranks, 2 queries each": (2, 2, 1),
    "2 ranks, 2 queries each, 2 x 8 rows": (2, 2, 2),
    "4 x 4 rows": (4, 1, 1),
    "4 ranks: 2 x 8 rows, 2 queries each": (4, 2, 1),
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One process, one batch of 16 rows: its log and its weights, for each method and dtype."""
    done: dict[Any, tuple[ReplayLog, bytes, str]] = {}

    def run(method: str, dtype: torch.dtype) -> tuple[ReplayLog, bytes, str]:
        if (method, dtype) not in done:
            log = tmp_path_factory.mktemp("alone") / "zo_log"
            weights = train(str(log), dtype=dtype, **options(method))
            done[method, dtype] = ReplayLog.open(log), log.read_bytes(), weights
        return done[method, dtype]

    return run


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE.keys())
@pytest.mark.parametrize("method", METHODS)
def test_any_split_of_a_batch_gives_the_record_of_the_whole(
    method: str, case: tuple[int, int, int], alone: Any, tmp_path: Path
) -> None:
    """In float64 the logs are the same to the last byte, and so are the weights."""
    processes, query_parallel, micro_batches = case
    if method == "grzo" and query_parallel > 1:
        pytest.skip("its points cannot be split: refused, see test_what_cannot_be_split_is_refused")
    log = tmp_path / "zo_log"

    def run(dtype: torch.dtype) -> list[str]:
        return run_ranks(processes, _train_as, str(log), micro_batches, dtype, method, query_parallel)

    weights = run(torch.float64)
    _, want, want_weights = alone(method, torch.float64)
    assert log.read_bytes() == want
    assert weights == [want_weights] * processes


def _train_as(log: str, micro_batches: int, dtype: torch.dtype, method: str, query_parallel: int) -> str:
    return train(log, micro_batches, dtype, query_parallel_size=query_parallel, **options(method))


@pytest.mark.parametrize("method", METHODS)
def test_in_float32_a_split_batch_differs_by_the_models_own_rounding(method: str, alone: Any, tmp_path: Path) -> None:
    """Means of 8 and of 16 losses round differently; that, divided by zo_eps, is all the difference there is."""
    log = tmp_path / "zo_log"
    weights = run_ranks(2, _train_as, str(log), 1, torch.float32, method, 1)
    assert weights[0] == weights[1]
    whole, _, _ = alone(method, torch.float32)
    for mine, want in zip(ReplayLog.open(log).records[:1], whole.records[:1], strict=True):
        # A loss of 4.5 is known to 2**-22; a difference of two, over 2 zo_eps, to a hundred times that.
        assert mine.scalars == pytest.approx(want.scalars, abs=4 * 2.0**-22 / 2e-2)
        assert mine.loss == pytest.approx(want.loss, abs=4 * 2.0**-22)


@pytest.mark.parametrize("method", METHODS)
def test_splitting_queries_changes_nothing_in_any_dtype(method: str, alone: Any, tmp_path: Path) -> None:
    if method == "grzo":
        pytest.skip("its points cannot be split: refused, see test_what_cannot_be_split_is_refused")
    log = tmp_path / "zo_log"
    weights = run_ranks(2, _train_as, str(log), 1, torch.bfloat16, method, 2)
    _, want, want_weights = alone(method, torch.bfloat16)
    assert log.read_bytes() == want
    assert weights == [want_weights] * 2


def test_what_cannot_be_split_is_refused(tmp_path: Path) -> None:
    failures = fail_ranks(2, _train_as, str(tmp_path / "zo_log"), 1, torch.float32, "grzo", 2)
    assert all("query_parallel_size" in text for _, text in failures), failures


def _forwards(query_parallel: int, method: str) -> int:
    model, loss_fn = make("llama")
    config = zoft.ZOConfig(method=method, num_queries=4, query_parallel_size=query_parallel)
    opt = zoft.ZOOptimizer(model, 1e-2, config)
    opt.step(loss_fn)  # the first one also proves reach
    seen: list[int] = []
    opt.step(lambda: (seen.append(1), loss_fn())[1])
    return len(seen)


def test_each_process_evaluates_its_own_queries_only() -> None:
    assert run_ranks(2, _forwards, 2, "mezo") == [4, 4]
    assert run_ranks(2, _forwards, 2, "fzoo") == [3, 2], "five evaluations in all"
    assert run_ranks(2, _forwards, 1, "mezo") == [8, 8]


def _one_of_them(step: int, what: str) -> str:
    """A run in which rank 1 does something of its own before a step."""
    torch.manual_seed(dist.get_rank() if what == "base" else 0)
    model, loss_fn = make("llama", seed=dist.get_rank() if what == "base" else 0)
    seed = dist.get_rank() if what == "seed" else 0
    lr = 1e-2 * (1 + dist.get_rank()) if what == "lr" else 1e-2
    opt = zoft.ZOOptimizer(model, lr, zoft.ZOConfig(method="mezo", seed=seed, replica_check_steps=3))
    for number in range(8):
        if number == step and dist.get_rank() == 1 and what == "write":
            with torch.no_grad():
                model.model.layers[1].mlp.up_proj.weight[0, 0] += 1e-6
        opt.step(loss_fn)
    return digest(model)


@pytest.mark.parametrize(
    ("step", "what", "message"),
    [
        (0, "base", "the same weights before step 0: model.embed_tokens.weight differs first"),
        (4, "write", "the same weights before step 6: model.layers.1.mlp.up_proj.weight differs first"),
        (0, "seed", "the same settings: config differs first"),
        (0, "lr", "the same lr of parameter group 0: 0.01 on rank 0, 0.02 on rank 1"),
    ],
    ids=["another base", "a write from outside", "another seed", "another learning rate"],
)
def test_processes_that_part_are_stopped_and_the_first_difference_is_named(step: int, what: str, message: str) -> None:
    failures = fail_ranks(2, _one_of_them, step, what)
    assert [name for name, _ in failures] == ["DistributedError"] * 2
    assert all(message in text for _, text in failures), failures


def _compared_at_the_end() -> None:
    model, loss_fn = make("llama")
    opt = zoft.ZOOptimizer(model, 1e-2, zoft.ZOConfig(method="mezo"))
    opt.step(loss_fn)
    opt.check_replicas()
    if dist.get_rank() == 1:
        model.lm_head.weight.data[3, 5] += 1e-6
    opt.check_replicas()


def test_a_loop_of_ones_own_may_compare_at_its_end() -> None:
    failures = fail_ranks(2, _compared_at_the_end)
    assert all("weights before step 1: lm_head.weight differs first" in text for _, text in failures), failures


def _log_on(rank: int, path: str) -> tuple[bool, int]:
    model, loss_fn = make("llama")
    opt = zoft.ZOOptimizer(model, 1e-2, log=path if dist.get_rank() == rank else None)
    opt.step(loss_fn)
    opt.close_log()
    return opt.log is not None, len(ReplayLog.open(path).records) if Path(path).exists() else 0


def test_the_first_process_alone_says_whether_there_is_a_log(tmp_path: Path) -> None:
    assert run_ranks(2, _log_on, 0, str(tmp_path / "a"))[0] == (True, 1)
    assert run_ranks(2, _log_on, 1, str(tmp_path / "b")) == [(False, 0)] * 2
    assert not (tmp_path / "b").exists()


def _bad_loss(nonfinite: str) -> list[bool]:
    model, loss_fn = make("llama")
    opt = zoft.ZOOptimizer(model, 1e-2, zoft.ZOConfig(method="mezo", nonfinite=nonfinite))
    skipped = []
    for step in range(3):
        bad = step == 1 and dist.get_rank() == 1
        opt.step(lambda bad=bad: loss_fn() * (float("nan") if bad else 1.0))  # type: ignore[misc]
        assert opt.last_record is not None
        skipped.append(opt.last_record.skipped)
    return skipped


def test_a_nan_in_one_process_stops_all() -> None:
    failures = fail_ranks(2, _bad_loss, "raise")
    assert [name for name, _ in failures] == ["NonFiniteLossError"] * 2
    assert "the estimate at step 1 is not finite" in failures[0][1]
    assert "loss_plus of query 0 is nan at step 1" in failures[1][1]


def test_a_nan_in_one_process_drops_the_step_in_all() -> None:
    assert run_ranks(2, _bad_loss, "skip") == [[False, True, False]] * 2


def _endless(log: str) -> None:
    model, loss_fn = make("llama")
    opt = zoft.ZOOptimizer(model, 1e-3, zoft.ZOConfig(method="mezo"), log=log)
    while True:
        opt.step(loss_fn)


@pytest.mark.parametrize("victim", [0, 1])
def test_when_a_process_is_killed_the_others_end_in_seconds_and_the_log_is_whole(victim: int, tmp_path: Path) -> None:
    log = tmp_path / "zo_log"
    with started(2, _endless, str(log)) as workers:
        deadline = time.monotonic() + 60
        while not (log.exists() and len(ReplayLog.open(log).records) >= 5):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process, _ = workers[victim]
        os.kill(process.pid, signal.SIGKILL)
        began = time.monotonic()
        _, failure = outcome(workers[1 - victim][1], 30)
        assert time.monotonic() - began < 10
    assert failure[0] == "DistributedError" and "another process of this run has ended" in failure[1]
    base, _ = make("llama")
    assert zoft.replay(base, log) >= 5


def _resume(log: str, query_parallel: int, upto: int) -> tuple[str, int]:
    model, _ = make("llama", torch.float64)
    config = zoft.ZOConfig(method="mezo", zo_eps=1e-2, num_queries=4, query_parallel_size=query_parallel)
    opt = zoft.ZOOptimizer(model, 1e-2, config)
    resumed = opt.resume_log(log) if Path(log).exists() else opt.start_log(log) or 0
    for step in range(upto):
        rows = batch(step, 16).chunk(opt.replicas.data_size)[opt.replicas.data_rank]
        opt.step(lambda rows=rows: mean_loss(model, rows))  # type: ignore[misc]
    opt.close_log()
    return digest(model), resumed


def test_a_run_goes_on_with_any_number_of_processes(tmp_path: Path) -> None:
    """One process, then two, then four in two groups: log and weights are those of one process throughout."""
    whole, split = str(tmp_path / "whole"), str(tmp_path / "split")
    want, _ = _resume(whole, 1, 6)
    _resume(split, 1, 2)
    assert [resumed for _, resumed in run_ranks(2, _resume, split, 1, 4)] == [2, 2]
    assert run_ranks(4, _resume, split, 2, 6) == [(want, 4)] * 4
    assert Path(split).read_bytes() == Path(whole).read_bytes()


def test_a_log_that_cannot_be_read_is_an_error_in_all_processes(tmp_path: Path) -> None:
    log = tmp_path / "zo_log"
    log.write_bytes(b"not a log at all")
    failures = fail_ranks(2, _resume, str(log), 1, 1)
    assert [name for name, _ in failures] == ["ReplayError"] * 2


def _grouped(query_parallel: int, queries: int) -> None:
    model, _ = make("llama")
    zoft.ZOOptimizer(model, 1e-2, zoft.ZOConfig(method="mezo", num_queries=queries, query_parallel_size=query_parallel))


def test_groups_that_cannot_be_are_refused() -> None:
    failures = fail_ranks(2, _grouped, 3, 3)
    assert all("query_parallel_size=3 does not divide the number of processes, 2" in text for _, text in failures)
    failures = fail_ranks(2, _grouped, 2, 1)
    assert all("which has 1 part(s): raise num_queries" in text for _, text in failures)
    with pytest.raises(ConfigError, match="query_parallel_size=2 does not divide the number of processes, 1"):
        Replicas.current(2)
    with pytest.raises(ConfigError, match="query_parallel_size must be an integer >= 1, got 0"):
        zoft.ZOConfig(method="mezo", query_parallel_size=0)
