"""What an example adds does not depend on its company: other examples, their lengths, micro-batches, counts of tokens.

Through Trainer's own loop: rows are drawn, collated, and evaluated as in any private run, but for the draw, which is
given. An example's slopes must be the same to the bit, and so its clipped vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import zoft
from tests.core.conftest import VOCABULARY, make
from tests.hf.conftest import Row, _imports_are_no_garbage, rows, trainer_of
from zoft.errors import ConfigError
from zoft.hf import private as private_training
from zoft.hf.private import EXAMPLES
from zoft.optim import private as private_steps
from zoft.privacy import PrivacyConfig
from zoft.privacy.clipping import CLIPPED, clip_to_grid
from zoft.privacy.mechanism import PrivateSum

__all__ = ["_imports_are_no_garbage"]  # a fixture

QUERIES = 2
LONG = 7  # the row that is longest by far
PRIVACY = PrivacyConfig(dp_noise_multiplier=1.0, dp_target_delta=1e-5, dp_clip_threshold=2.0)
OTHERS = ("gpt2", "opt", "bert", "t5")

# Micro-batches of one step, and where row 1 is in it.
COMPANIES = {
    "alone": [[1]],
    "in company": [[0, 1, 2, 5]],
    "last of its batch": [[3, 2, 0, 1]],
    "beside the longest row": [[1, LONG]],
    "in the second of two micro-batches": [[0, 2, LONG], [1, 4]],
    "after an empty micro-batch": [[], [1]],
    "with itself": [[1, 1]],
}


class Padded:
    """A collator that pads to the longest row, on the left and without a mask: an example's loss is then another."""

    def __call__(self, batch: Sequence[Row]) -> dict[str, torch.Tensor]:
        def padded(name: str, value: int) -> torch.Tensor:
            columns = [row[name] for row in batch]
            return nn.utils.rnn.pad_sequence(columns, batch_first=True, padding_value=value, padding_side="left")

        return {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100)}


def uneven_rows() -> list[Row]:
    """Rows of three to eight tokens, few or many of which carry a loss, and one of fourteen."""
    lengths = (8, 5, 3, 8, 6, 4, 7)
    short = [{name: row[name][-length:] for name in row} for row, length in zip(rows(7), lengths, strict=True)]
    return [*short, *rows(1, length=14, seed=1)]


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """The slopes of examples, in the order in which they are added."""
    seen: list[list[float]] = []

    class Recorded(PrivateSum):
        def add(self, slopes: Sequence[float]) -> None:
            seen.append(list(slopes))
            super().add(slopes)

    monkeypatch.setattr(private_steps, "PrivateSum", Recorded)
    return seen


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[list[int]]], None]:
    """Sets the micro-batches of the first step."""

    def draw(micro_batches: list[list[int]]) -> None:
        monkeypatch.setattr(private_training, "PoissonBatches", lambda *args, **kwargs: micro_batches)

    return draw


def one_step(output_dir: Path, micro_batches: list[list[int]], family: str = "llama", **changes: Any) -> Any:
    """A Trainer, after one step on these micro-batches."""
    trainer = trainer_of(
        output_dir,
        model=make(family)[0],
        cls=partial(zoft.ZOTrainer, privacy=PRIVACY, data_collator=Padded()),
        zo=zoft.ZOConfig(method="mezo", zo_eps=1e-2, num_queries=QUERIES),
        train=uneven_rows(),
        max_steps=1,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=len(micro_batches),
        **changes,
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("family", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_an_example_adds_the_same_in_any_company(
    family: str, added: list[list[float]], drawn: Callable[[list[list[int]]], None], tmp_path: Path
) -> None:
    vectors: dict[int, list[float]] = {}
    for name, micro_batches in COMPANIES.items():
        drawn(micro_batches)
        one_step(tmp_path / name, micro_batches, family)
        examples = [example for part in micro_batches for example in part]
        assert len(added) == len(examples), "each example is clipped by itself"
        for example, slopes in zip(examples, added, strict=True):
            assert slopes == vectors.setdefault(example, slopes), f"row {example}, {name}"
            step = clip_to_grid(slopes, 2.0)
            assert 0 < sum(x * x for x in step) <= CLIPPED**2
        added.clear()
    assert len({tuple(slopes) for slopes in vectors.values()}) == len(vectors) == 7


def test_losses_are_not_divided_by_the_tokens_of_a_batch(
    drawn: Callable[[list[list[int]]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainer counts the tokens of a step where it finds labels, and models divide by the count."""
    told: list[Any] = []
    compute = zoft.ZOTrainer.compute_loss

    def watched(self: Any, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        told.append(kwargs.get("num_items_in_batch"))
        return compute(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(zoft.ZOTrainer, "compute_loss", watched)
    drawn([[0, LONG], [1]])
    one_step(tmp_path, [[0, LONG], [1]])
    assert told == [None, None]


def test_dropout_does_not_couple_examples(
    added: list[list[float]], drawn: Callable[[list[list[int]]], None], tmp_path: Path
) -> None:
    """It is off; numbers drawn for one example would otherwise depend on how many came before."""
    for name in ("in company", "last of its batch"):
        drawn(COMPANIES[name])
        one_step(tmp_path / name, COMPANIES[name], "gpt2")  # whose dropout is 0.1
    first = dict(zip(COMPANIES["in company"][0], added[:4], strict=True))
    second = dict(zip(COMPANIES["last of its batch"][0], added[4:], strict=True))
    assert all(first[example] == second[example] for example in (0, 1, 2))


def test_rows_are_collated_one_by_one(drawn: Callable[[list[list[int]]], None], tmp_path: Path) -> None:
    """To their own lengths."""
    drawn([[5, 6, LONG], []])
    trainer = trainer_of(
        tmp_path, cls=partial(zoft.ZOTrainer, privacy=PRIVACY, data_collator=Padded()), train=uneven_rows()
    )
    batch, empty = trainer.get_train_dataloader()
    assert [tuple(example["input_ids"].shape) for example in batch[EXAMPLES]] == [(1, 4), (1, 7), (1, 14)]
    assert empty == {EXAMPLES: []}


def test_no_setting_of_a_trainer_fixes_the_batches(tmp_path: Path) -> None:
    """Neither seed nor data_seed: a run that starts again, with the same settings, draws other batches."""
    numbers = [{"input_ids": torch.tensor([number % VOCABULARY])} for number in range(64)]

    def batches(name: str) -> list[list[int]]:
        trainer = trainer_of(
            tmp_path / name,
            cls=partial(zoft.ZOTrainer, privacy=PRIVACY),
            train=numbers,
            per_device_train_batch_size=16,
            seed=5,
            data_seed=5,
        )
        return [[int(row["input_ids"]) for row in batch[EXAMPLES]] for batch in trainer.get_train_dataloader()]

    assert batches("one") != batches("two")


# --- what would couple examples, or choose by them, is refused -------------------------------------------


def test_batch_normalisation_is_refused_by_a_trainer(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a BatchNorm2d, whose statistics are those of whole batches"):
        trainer_of(tmp_path, model=make("resnet")[0], cls=partial(zoft.ZOTrainer, privacy=PRIVACY))


@pytest.mark.parametrize(
    "asked",
    [
        {"load_best_model_at_end": True, "eval_strategy": "no", "save_strategy": "no"},
        {"save_strategy": "best", "metric_for_best_model": "loss"},
        {"eval_strategy": "steps", "eval_steps": 1},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_no_checkpoint_is_chosen_by_private_data(asked: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dp_eval_is_public"):
        trainer_of(tmp_path, evaluation=rows(4), cls=partial(zoft.ZOTrainer, privacy=PRIVACY), **asked)


def test_what_a_trainer_logs_is_public(
    drawn: Callable[[list[list[int]]], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names of facts that do not depend on the data, and the same for another batch, but for what is noised."""
    public = {"learning_rate", "epoch", "step", "epsilon", "projected_grad"}
    logged = []
    for micro_batches in ([[0, 1, 2, LONG]], [[]]):
        drawn(micro_batches)
        trainer = one_step(tmp_path / str(len(logged)), micro_batches)
        history = trainer.state.log_history
        assert all(set(entry) <= public for entry in history)
        logged.append([{key: x for key, x in entry.items() if key != "projected_grad"} for entry in history])
    assert logged[0] == logged[1] and logged[0]
    assert "loss" not in capsys.readouterr().out
