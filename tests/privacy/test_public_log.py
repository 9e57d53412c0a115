"""What a private run leaves is public: nothing in it depends on the data but through noise that none can repeat."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from transformers import Trainer, TrainerCallback

import zoft
from tests.cli.runs import make_assets
from tests.core.conftest import VOCABULARY
from tests.privacy.runs import Linear, Run, examples, plan_of, promise
from tests.privacy.training import private_trainer
from zoft.log_file import ReplayLog
from zoft.noise import run_key, sample
from zoft.privacy import mechanism

# --- hygiene: with the same releases, two data sets leave the same files --------------------------------


@pytest.fixture
def same_releases(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every release is what the noise alone would be, the same in every run; returns how many there were."""
    count: list[int] = []

    def noised(total: Sequence[int], name: str, noise_multiplier: float) -> list[int]:
        count.append(len(total))
        return random.Random(len(count)).choices(range(-(2**20), 2**20), k=len(total))

    monkeypatch.setattr(mechanism, "noised", noised)
    return count


def _rows(kind: str) -> list[dict[str, torch.Tensor]]:
    """Sixteen rows: short ones, or long ones of other tokens."""
    lengths, tokens = ((3, 6), (3, 20)) if kind == "short" else ((20, 40), (60, VOCABULARY))
    generator, made = torch.Generator().manual_seed(1), []
    for _ in range(16):
        length = int(torch.randint(*lengths, (), generator=generator))
        ids = torch.randint(*tokens, (length,), generator=generator)
        made.append({"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)})
    return made


class Loud(Trainer):  # type: ignore[misc]
    """Keeps and logs what it sees of the data, as TRL's trainers do."""

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        value = loss[0] if isinstance(loss, tuple) else loss
        vars(self).setdefault("kept", []).append(float(value))
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        super().log({**logs, "mean_token_loss": float(np.mean(self.kept))}, *args, **kwargs)


class Told(TrainerCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.logs: list[str] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append(repr(logs))


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["mixin", pytest.param("callback", marks=pytest.mark.slow)])
def test_a_trainers_folder_logs_and_results_are_the_same_whatever_the_data(
    kind: str, same_releases: list[int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    left = []
    for data in ("short", "long"):
        same_releases.clear()
        told, folder = Told(), tmp_path / "run"
        trainer = private_trainer(
            folder,
            kind=kind,
            cls=Loud,
            train=_rows(data),
            callbacks=[told],
            gradient_accumulation_steps=2,
            per_device_train_batch_size=2,
            logging_steps=2,
            save_strategy="steps",
            save_steps=3,
        )
        capsys.readouterr()
        output = trainer.train()
        trainer.save_model()
        left.append(
            (_files(folder), told.logs, trainer.state.log_history, repr(output), capsys.readouterr().out, trainer.kept)
        )
        folder.rename(tmp_path / data)
        assert same_releases == [2] * 6
    short, long = left
    assert short[5] != long[5], "the data were not the same"
    assert short[1:5] == long[1:5]
    assert (
        {*short[0]}
        == {*long[0]}
        >= {
            "zo_log",
            *(
                f"checkpoint-6/{name}"
                for name in ("trainer_state.json", "optimizer.pt", "rng_state.pth", "scheduler.pt")
            ),
        }
    )
    assert [name for name in short[0] if short[0][name] != long[0][name]] == []


def test_zoft_trains_folder_and_words_are_the_same_whatever_the_rows(
    same_releases: list[int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from zoft.cli.train import main

    monkeypatch.setenv("TQDM_DISABLE", "1")
    recipe, rows = make_assets(tmp_path), tmp_path / "rows.jsonl"
    left = []
    for words in (2, 60):
        rng = random.Random(words)
        lines = [
            {"text": " ".join(rng.choices(["the", "film", "great", "dull"], k=words + number % 3)), "label": number % 2}
            for number in range(60)
        ]
        rows.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        same_releases.clear()
        argv = [
            "--config",
            str(recipe),
            "--output_dir",
            str(tmp_path / "run"),
            "--max_steps",
            "6",
            "--max_length",
            "40",
        ]
        privacy = ["--dp_noise_multiplier", "1.5", "--dp_target_delta", "1e-5", "--dp_accountant", "rdp"]
        main([*argv, *privacy, "--save_strategy", "steps", "--save_steps", "3"])
        left.append((_files(tmp_path / "run"), capsys.readouterr().out))
        (tmp_path / "run").rename(tmp_path / f"run-{words}")
    short, long = left
    assert short[1] == long[1] and "privacy: gaussian mechanism" in short[1]
    assert {*short[0]} == {*long[0]} >= {"zo_log", "metrics.json", "resolved_config.yaml", "model.safetensors"}
    assert [name for name in short[0] if short[0][name] != long[0][name]] == []


def test_the_log_holds_plan_intents_and_noised_scalars_only(tmp_path: Path) -> None:
    run = Run(plan_of(), tmp_path / "log")
    for numbers in ([0, 1, 2], [], [3]):
        run.step(numbers)
    run.opt.close_log()
    log = ReplayLog.open(tmp_path / "log")
    assert {*log.header} == {
        *("format", "noise_spec", "config", "num_scalars", "parameters", "weight_decays", "base", "privacy")
    }
    assert log.header["privacy"] == plan_of().to_dict()
    assert all(np.isnan(record.loss) and not record.skipped and not record.probe for record in log.records)


# --- the attacker: knows all but the noise --------------------------------------------------------------

STEPS, QUERIES, SIGMA, CLIP, BATCH, SEED = 250, 2, 1.0, 8.0, 5, 11


def _released(log: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Releases of a run over a batch of all examples, as its log has them, and the clipped sums, both over B."""
    plan = plan_of(
        promise(dp_noise_multiplier=SIGMA, dp_clip_threshold=CLIP),
        num_examples=BATCH,
        expected_batch_size=BATCH,
        steps=STEPS,
        num_scalars=QUERIES,
    )
    run, sums, noised = Run(plan, log, seed=SEED), [], mechanism.noised

    def watched(total: Sequence[int], *args: Any) -> list[int]:
        sums.append([step / 2**20 * CLIP / BATCH for step in total])
        return noised(total, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mechanism, "noised", watched)
        for _ in range(STEPS):
            run.step(range(BATCH))
    run.opt.close_log()
    return np.array([record.scalars for record in ReplayLog.open(log).records]), np.array(sums)


def _recomputed_sums(log: Path) -> np.ndarray[Any, Any]:
    """What the attacker makes of the data, the code, the seed and the public weights: every clipped sum, exactly."""
    opened, model, sums = ReplayLog.open(log), Linear(), []
    opt = zoft.ZOOptimizer(model, 0.01, zoft.ZOConfig(**{**opened.header["config"], "placement": "snapshot"}))
    losses = [lambda x=x: model(x) for x in examples()[:BATCH]]
    for record in opened.records:
        slopes = np.array([estimate.scalars for estimate in opt.engine.estimates(losses)])
        norms = np.linalg.norm(slopes, axis=1, keepdims=True)
        sums.append((slopes * np.minimum(1.0, CLIP / norms)).sum(0) / BATCH)
        opt.engine.apply(record)
    return np.array(sums)


def _streams() -> dict[str, np.ndarray[Any, Any]]:
    """Every stream of random numbers that a public seed begins, [STEPS, QUERIES] each."""
    shape, found = (STEPS, QUERIES), {}
    for seed in {0, 1, 42, SEED, run_key(SEED), *(run_key(seed) for seed in (0, 42))}:
        generator = torch.Generator().manual_seed(seed)
        found[f"torch {seed}"] = torch.randn(shape, generator=generator).numpy()
        generator.manual_seed(seed)
        found[f"torch, step after step, {seed}"] = np.array(
            [torch.randn(QUERIES, generator=generator).tolist() for _ in range(STEPS)]
        )
        found[f"numpy {seed}"] = np.random.default_rng(seed).standard_normal(shape)
        found[f"numpy legacy {seed}"] = np.random.RandomState(seed % 2**32).standard_normal(shape)
        python = random.Random(seed)
        found[f"python {seed}"] = np.array([python.gauss(0, 1) for _ in range(STEPS * QUERIES)]).reshape(shape)
        found[f"torch by step {seed}"] = np.array(
            [
                torch.randn(QUERIES, generator=torch.Generator().manual_seed((seed + step) % 2**63)).tolist()
                for step in range(STEPS)
            ]
        )
    for seed in (0, 42, SEED):  # the directions' own streams, whichever element of whichever parameter
        drawn = np.array(
            [[_direction(seed, step, query) for query in range(QUERIES)] for step in range(STEPS)]
        )  # [STEPS, QUERIES, elements]
        found |= {f"direction {seed}, element {i}": drawn[:, :, i] for i in range(drawn.shape[2])}
        found[f"direction {seed}, norm"] = np.linalg.norm(drawn[:, :, :6], axis=2)
    return {name: (values - values.mean()) / values.std() for name, values in found.items()}


def _direction(seed: int, step: int, query: int) -> list[float]:
    key = run_key(seed)
    parts = [
        sample(8, parameter=parameter, step=step, query=query, key=key, distribution="gaussian") for parameter in (0, 1)
    ]
    return torch.cat(parts).tolist()


def _attack(released: np.ndarray[Any, Any], sums: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Return the best estimate's error on the steps that it was not fitted on, over the noise's scale, and the largest
    correlation of the noise with a stream.

    The noise that the attacker is after is known to him on the first half of the steps, which is more than he can have.
    """
    noise, streams = released - sums, _streams()
    half = STEPS // 2
    columns = np.stack([stream for stream in streams.values()], axis=-1)  # [STEPS, QUERIES, streams]
    correlations = np.array([np.corrcoef(noise.ravel(), stream.ravel())[0, 1] for stream in streams.values()])
    best = int(np.argmax(np.abs(correlations)))
    chosen = columns[..., best : best + 1]
    weights, *_ = np.linalg.lstsq(chosen[:half].reshape(-1, 1), noise[:half].ravel(), rcond=None)
    left = noise[half:].ravel() - chosen[half:].reshape(-1, 1) @ weights
    return float(left.std() / (SIGMA * CLIP / BATCH)), float(np.abs(correlations).max())


def test_who_knows_all_but_the_noise_cannot_take_it_off(tmp_path: Path) -> None:
    released, sums = _released(tmp_path / "log")
    assert np.abs(_recomputed_sums(tmp_path / "log") - sums).max() < 1e-3, "the attacker does know the sums"
    error, correlation = _attack(released, sums)
    assert error == pytest.approx(1.0, abs=6.0 / np.sqrt(STEPS * QUERIES))  # six standard errors over half the values
    assert correlation < 6.0 / np.sqrt(STEPS * QUERIES)
    residual = ((released - sums) / (SIGMA * CLIP / BATCH)).ravel()
    assert stats.kstest(residual, "norm").pvalue > 1e-7
    assert abs(np.corrcoef(residual, sums.ravel())[0, 1]) < 6.0 / np.sqrt(STEPS * QUERIES)
    assert abs(np.corrcoef(residual[:-1], residual[1:])[0, 1]) < 6.0 / np.sqrt(STEPS * QUERIES)


def _by_torch() -> Callable[[], list[float]]:
    generator = torch.Generator().manual_seed(SEED)
    return lambda: torch.randn(QUERIES, generator=generator).tolist()


def _by_direction() -> Callable[[], list[float]]:
    steps = iter(range(STEPS))

    def draw() -> list[float]:
        step = next(steps)
        return [_direction(SEED, step, query)[0] for query in range(QUERIES)]

    return draw


@pytest.mark.parametrize("source", [_by_torch, _by_direction], ids=["torch's seed", "the direction's stream"])
def test_noise_from_a_public_seed_would_be_taken_off(
    source: Callable[[], Callable[[], list[float]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The flaw of published implementations: this attacker does find it."""
    draw = source()

    def noised(total: Sequence[int], name: str, noise_multiplier: float) -> list[int]:
        return [step + round(x * noise_multiplier * 2**20) for step, x in zip(total, draw(), strict=True)]

    monkeypatch.setattr(mechanism, "noised", noised)
    error, correlation = _attack(*_released(tmp_path / "log"))
    assert error < 0.05 and correlation > 0.95
