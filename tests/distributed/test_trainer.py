"""``ZOTrainer`` in several gloo processes: the same log and the same weights as in one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback

import zoft
from tests.core.conftest import make
from tests.core.runs import digest
from tests.distributed.ranks import fail_ranks, run_ranks
from tests.hf.conftest import rows, trainer_of, with_callback
from tests.methods import methods
from zoft.hf import log_checkpoints

METHODS = methods("mezo", "fzoo")


class InDouble(Trainer):  # type: ignore[misc]
    """Takes its loss in float64, so that splitting a batch shows nowhere; counts tokens as Trainer does."""

    def compute_loss(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None, **kwargs: Any) -> Any:
        labels = inputs["labels"][:, 1:].flatten()
        logits = model(input_ids=inputs["input_ids"]).logits[:, :-1].flatten(0, 1)
        total = nn.functional.cross_entropy(logits, labels, reduction="sum")
        return total / num_items_in_batch * self.accelerator.num_processes


class ZOInDouble(zoft.ZOTrainerMixin, InDouble):  # type: ignore[misc]
    pass


class Watch(TrainerCallback):  # type: ignore[misc]
    """Looks, at every step, for what first-order training would keep."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        if type(model) is not type(make("llama")[0]):
            self.found.add(type(model).__name__)
        if any(p.grad is not None for p in model.parameters()):
            self.found.add("gradient")
        if optimizer.state:
            self.found.add("optimizer state")


def train(
    folder: str, per_rank: int, accumulate: int, cls: Any = ZOInDouble, **zo: Any
) -> tuple[str, set[str], list[float], bool]:
    model, _ = make("llama", torch.float64)
    watch = Watch()
    trainer = trainer_of(
        Path(folder),
        model=model,
        cls=cls,
        zo=zoft.ZOConfig(**{"method": "mezo", "zo_eps": 1e-2, "num_queries": 2, **zo}),
        per_device_train_batch_size=per_rank,
        gradient_accumulation_steps=accumulate,
        weight_decay=0.1,
        max_steps=4,
        callbacks=[watch],
    )
    trainer.train()
    losses = [round(entry["loss"], 4) for entry in trainer.state.log_history if "loss" in entry]
    return digest(model), watch.found, losses, "prepare_model" not in vars(trainer.accelerator)


# (processes, rows a rank, accumulation, ranks that share a batch)
TABLE = {
    "accumulation 2 x 4": (1, 4, 2, 1),
    "2 ranks x 4": (2, 4, 1, 1),
    "2 ranks x 2, accumulation 2": (2, 2, 2, 1),
    "2 ranks, a query each": (2, 8, 1, 2),
    "4 ranks: 2 x 4 rows, a query each": (4, 4, 1, 2),
}


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE.keys())
@pytest.mark.parametrize("method", METHODS)
def test_processes_batch_and_accumulation_make_no_difference(
    method: str, case: tuple[int, int, int, int], tmp_path: Path
) -> None:
    processes, per_rank, accumulate, query_parallel = case
    if method == "grzo":
        pytest.skip("here a micro-batch has one loss, and so counts as one example")
    want, _, want_losses, _ = run_ranks(1, _train, str(tmp_path / "one"), 8, 1, method, 1)[0]
    results = run_ranks(processes, _train, str(tmp_path / "many"), per_rank, accumulate, method, query_parallel)
    for weights, found, losses, unchanged in results:
        assert weights == want
        assert not found
        assert losses == pytest.approx(want_losses, abs=1.1e-4), (
            "up to the last digit shown, what is logged is the loss over all ranks' rows"
        )
        assert unchanged
    assert (tmp_path / "many" / "zo_log").read_bytes() == (tmp_path / "one" / "zo_log").read_bytes()


def _train(folder: str, per_rank: int, accumulate: int, method: str, query_parallel: int) -> Any:
    return train(folder, per_rank, accumulate, method=method, query_parallel_size=query_parallel)


def _by_callback(folder: str, query_parallel: int) -> Any:
    return train(folder, 4, 1, with_callback(InDouble), query_parallel_size=query_parallel)


@pytest.mark.parametrize("query_parallel", [1, 2], ids=["rows split", "queries split"])
def test_the_callback_does_as_the_mixin(query_parallel: int, tmp_path: Path) -> None:
    want = run_ranks(2, _train, str(tmp_path / "mixin"), 4, 1, "mezo", query_parallel)
    assert run_ranks(2, _by_callback, str(tmp_path / "callback"), query_parallel) == want
    assert (tmp_path / "callback" / "zo_log").read_bytes() == (tmp_path / "mixin" / "zo_log").read_bytes()


def _resumed(folder: str, max_steps: int, **options: Any) -> str:
    model, _ = make("llama")
    trainer = trainer_of(
        Path(folder),
        model=model,
        max_steps=max_steps,
        save_strategy="steps",
        save_steps=2,
        lr_scheduler_type="constant",
        **options,
    )
    trainer.train(resume_from_checkpoint=(Path(folder) / "zo_log").exists() or None)
    return digest(model)


@pytest.mark.parametrize("keep", [True, False], ids=["from a checkpoint", "from the log"])
def test_a_run_of_two_processes_resumes(keep: bool, tmp_path: Path) -> None:
    import shutil

    want = run_ranks(2, _resumed, str(tmp_path / "whole"), 6)
    run_ranks(2, _resumed, str(tmp_path / "split"), 3)
    if not keep:
        for checkpoint in (tmp_path / "split").glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    assert run_ranks(2, _resumed, str(tmp_path / "split"), 6) == want
    assert want[0] == want[1]
    base, _ = make("llama")
    zoft.replay(base, tmp_path / "split" / "zo_log")
    assert digest(base) == want[0]


def _log_only(folder: str, max_steps: int) -> str:
    return _resumed(folder, max_steps, zo_checkpoints="log", zo_snapshot_steps=4)


def test_a_run_of_two_processes_resumes_from_a_checkpoint_without_weights(tmp_path: Path) -> None:
    want = run_ranks(2, _resumed, str(tmp_path / "whole"), 8)
    run_ranks(2, _log_only, str(tmp_path / "split"), 7)
    assert sorted(p.name for p in (tmp_path / "split").glob("*-*")) == [
        "checkpoint-2",
        "checkpoint-4",
        "checkpoint-6",
        "checkpoint-7",
        "zo_snapshot-4",
    ]
    (tmp_path / "split" / "checkpoint-7" / "trainer_state.json").unlink()
    assert run_ranks(2, _log_only, str(tmp_path / "split"), 8) == want
    assert (tmp_path / "split" / "zo_log").read_bytes() == (tmp_path / "whole" / "zo_log").read_bytes()


def _begun_late(folder: str) -> None:
    """The first process begins a checkpoint when the other has had time to save its own state into it."""
    begin = log_checkpoints.begin_log_only

    def late(checkpoint: Path) -> None:
        time.sleep(0.5)
        begin(checkpoint)

    log_checkpoints.begin_log_only = late
    try:
        _log_only(folder, 2)
    finally:
        log_checkpoints.begin_log_only = begin


def test_a_checkpoint_without_weights_keeps_what_each_process_saves(tmp_path: Path) -> None:
    run_ranks(2, _begun_late, str(tmp_path))
    states = sorted(path.name for path in (tmp_path / "checkpoint-2").glob("rng_state*"))
    assert states == ["rng_state_0.pth", "rng_state_1.pth"]


def _endless_data(folder: str) -> None:
    class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            return iter(rows(64))

    zo = zoft.ZOConfig(method="mezo", num_queries=2, query_parallel_size=2)
    trainer_of(Path(folder), train=Stream(), zo=zo).train()  # type: ignore[arg-type]


def test_queries_cannot_be_split_over_a_stream_of_rows(tmp_path: Path) -> None:
    failures = fail_ranks(2, _endless_data, str(tmp_path))
    assert all("needs a training set with a length" in text for _, text in failures), failures
