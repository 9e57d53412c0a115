"""TRL's trainers, whose losses are computed outside the model's forward, through the mixin and the callback."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

import zoft
from tests.core.conftest import VOCABULARY, make
from tests.core.runs import digest
from tests.hf.conftest import arguments
from zoft.errors import ConfigError
from zoft.replay_log import ReplayLog

STEPS = 4
LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])


class ZOSFT(zoft.ZOTrainerMixin, SFTTrainer):  # type: ignore[misc]
    pass


class ZODPO(zoft.ZOTrainerMixin, DPOTrainer):  # type: ignore[misc]
    pass


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = ["<unk>", "<eos>", "<pad>", *(f"w{i}" for i in range(VOCABULARY - 3))]
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>", pad_token="<pad>")


def _text(seed: int, words: int) -> str:
    return " ".join(f"w{(seed * 7 + 5 * i) % 90}" for i in range(words))


def dialogues(count: int = 16) -> Dataset:
    """Of uneven length, so that padding and the number of labels matter."""
    numbers = range(count)
    return Dataset.from_dict(
        {
            "prompt": [_text(n, 2 + n % 2) for n in numbers],
            "completion": [" " + _text(n + 40, 2 + n % 5) for n in numbers],
        }
    )


def preferences(count: int = 16) -> Dataset:
    numbers = range(count)
    return Dataset.from_dict(
        {
            "prompt": [_text(n, 2 + n % 2) for n in numbers],
            "chosen": [" " + _text(n + 40, 2 + n % 3) for n in numbers],
            "rejected": [" " + _text(n + 70, 3 + n % 4) for n in numbers],
        }
    )


def options_of(kind: type[SFTConfig | DPOConfig], folder: Path, **changes: Any) -> Any:
    shared = {"max_steps": STEPS, "bf16": False, "train_sampling_strategy": "sequential"}
    return arguments(folder, kind=kind, **{**shared, **changes})


def lora(seed: int = 0) -> nn.Module:
    """With a second factor that is not zero, so that the adapter does something from the start."""
    torch.manual_seed(seed)
    model = get_peft_model(make("llama")[0], LORA)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


# Config, Trainer, its zeroth-order class, data.
KINDS: dict[str, tuple[Any, Any, Any, Any]] = {
    "sft": (SFTConfig, SFTTrainer, ZOSFT, dialogues),
    "dpo": (DPOConfig, DPOTrainer, ZODPO, preferences),
}


def trainer_of(
    kind: str,
    folder: Path,
    tokenizer: Any,
    *,
    plain: bool = False,
    callback: bool = False,
    model: nn.Module | None = None,
    zo: zoft.ZOConfig | None = None,
    data: Dataset | None = None,
    **changes: Any,
) -> Any:
    """A TRL trainer: as it is, with the mixin or with the callback."""
    config, base, mixed, dataset = KINDS[kind]
    model = make("llama")[0] if model is None else model
    others: dict[str, Any] = {}
    if kind == "dpo" and not hasattr(model, "peft_config"):
        others["ref_model"] = make("llama", seed=1)[0]
    # TRL's fused head reads the head's weights without calling it, so `stream` cannot reach them.
    zo = zo or zoft.ZOConfig(method="mezo", zo_eps=1e-2, num_queries=2, placement="snapshot")
    if callback:
        others["callbacks"] = [zoft.ZOCallback(zo)]
    elif not plain:
        others["zo"] = zo
    return (base if plain or callback else mixed)(
        model=model,
        args=options_of(config, folder, **changes),
        train_dataset=dataset() if data is None else data,
        processing_class=tokenizer,
        **others,
    )


def records(folder: Path) -> list[Any]:
    return ReplayLog.open(folder / "zo_log").records


@pytest.mark.parametrize("adapter", [False, True], ids=["all weights", "LoRA"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_the_loss_is_trls_at_the_replayed_weights(kind: str, adapter: bool, tokenizer: Any, tmp_path: Path) -> None:
    """FZOO's logged loss is that of one plain evaluation; each step is compared with TRL's own compute_loss."""
    new = lora if adapter else lambda: make("llama")[0]
    zo = zoft.ZOConfig(method="fzoo", placement="snapshot")
    trainer = trainer_of(kind, tmp_path, tokenizer, model=new(), zo=zo)
    trainer.train()
    for step in (0, STEPS - 1):
        plain = trainer_of(kind, tmp_path / "plain", tokenizer, plain=True, model=new())
        zoft.replay(plain.model, tmp_path / "zo_log", upto_step=step)
        batch = list(plain.get_train_dataloader())[step]
        items = plain._get_num_items_in_batch([batch], torch.device("cpu"))
        plain.model.eval()
        with torch.no_grad():
            loss = plain.compute_loss(plain.model, batch, num_items_in_batch=items)
        assert records(tmp_path)[step].loss == pytest.approx(float(loss), rel=2e-6)


@pytest.mark.parametrize("adapter", [False, True], ids=["all weights", "LoRA"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_mixin_and_callback_make_the_same_run_and_it_replays(
    kind: str, adapter: bool, tokenizer: Any, tmp_path: Path
) -> None:
    new = lora if adapter else lambda: make("llama")[0]
    ends, logs = [], []
    for callback in (False, True):
        folder = tmp_path / str(callback)
        trainer = trainer_of(
            kind, folder, tokenizer, model=new(), callback=callback, gradient_accumulation_steps=2, bf16=True
        )
        assert trainer.args.gradient_checkpointing, "TRL's default, harmless here"
        trainer.train()
        ends.append(digest(trainer.model))
        logs.append((folder / "zo_log").read_bytes())
        assert all(p.grad is None for p in trainer.model.parameters())
    assert logs[0] == logs[1]
    base = trainer_of(kind, tmp_path / "plain", tokenizer, plain=True, model=new()).model  # DPO adds a reference
    assert zoft.replay(base, tmp_path / "True" / "zo_log") == STEPS
    assert ends[0] == ends[1] == digest(base)


@pytest.mark.parametrize("callback", [False, True], ids=["mixin", "callback"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_all_points_in_one_forward_make_the_run_of_moved_adapters(
    kind: str, callback: bool, tokenizer: Any, tmp_path: Path
) -> None:
    losses = {}
    for placement in ("snapshot", "batched"):
        folder = tmp_path / placement
        zo = zoft.ZOConfig(method="fzoo", zo_eps=1e-2, num_queries=3, placement=placement)
        trainer = trainer_of(kind, folder, tokenizer, model=lora(), callback=callback, zo=zo)
        trainer.train()
        losses[placement] = [record.loss for record in records(folder)]
    assert losses["batched"] == pytest.approx(losses["snapshot"], abs=5e-5)


@pytest.mark.parametrize("precomputed", [False, True], ids=["on the fly", "precomputed"])
@pytest.mark.parametrize("reference", ["a model", "the adapter disabled", "a copy of the adapter"])
def test_the_reference_stays_untouched(reference: str, precomputed: bool, tokenizer: Any, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"precompute_ref_log_probs": precomputed}
    if reference == "a model":
        trainer = trainer_of("dpo", tmp_path, tokenizer, **changes)
    elif reference == "a copy of the adapter":
        trainer = trainer_of("dpo", tmp_path, tokenizer, model=lora(), **changes)
    else:
        trainer = ZODPO(
            model=make("llama")[0],
            args=options_of(DPOConfig, tmp_path, **changes),
            train_dataset=preferences(),
            processing_class=tokenizer,
            peft_config=LORA,
            zo=zoft.ZOConfig(method="mezo", zo_eps=1e-2),
        )

    def held() -> dict[str, torch.Tensor]:
        model = trainer.ref_model or trainer.model
        return {
            name: parameter.detach().clone()
            for name, parameter in model.named_parameters()
            if trainer.ref_model is not None or ".default." not in name
        }

    before, start = held(), copy.deepcopy(dict(trainer.model.named_parameters()))
    trainer.train()
    after = held()
    assert before.keys() == after.keys() and before
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(not torch.equal(start[name], p) for name, p in trainer.model.named_parameters())
    # At the start, policy and reference agree unless they are two models: the loss is then log 2.
    if reference != "a model":
        assert records(tmp_path)[0].loss == pytest.approx(0.6931, abs=0.05)


@pytest.mark.filterwarnings("ignore:no trained weight changed:zoft.ZoftWarning")  # learning_rate=0 is meant
@pytest.mark.parametrize("callback", [False, True], ids=["mixin", "callback"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_trls_metrics_are_of_training_and_count_each_token_once(
    kind: str, callback: bool, tokenizer: Any, tmp_path: Path
) -> None:
    """At zo_eps near 0 they are what a plain evaluation notes; evaluation's own stay apart from them."""
    zo = zoft.ZOConfig(method="mezo", zo_eps=1e-6, num_queries=2, placement="snapshot")
    trainer = trainer_of(kind, tmp_path, tokenizer, callback=callback, zo=zo, learning_rate=0.0)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    plain = trainer_of(kind, tmp_path / "plain", tokenizer, plain=True)
    for entry, batch in zip(entries, plain.get_train_dataloader(), strict=True):
        plain.model.train()
        with torch.no_grad():
            plain.compute_loss(plain.model, batch)
        noted = {key: sum(values) / len(values) for key, values in plain._metrics["train"].items()}
        plain._metrics["train"].clear()
        assert noted and {key: entry[key] for key in noted} == pytest.approx(noted, rel=1e-3, abs=1e-5)
    assert not trainer._metrics["eval"]


def test_evaluation_metrics_are_of_evaluation(tokenizer: Any, tmp_path: Path) -> None:
    trainer = trainer_of("sft", tmp_path, tokenizer)
    trainer.train()
    entry = trainer.evaluate(trainer.train_dataset)
    plain = trainer_of("sft", tmp_path / "plain", tokenizer, plain=True, model=trainer.model)
    assert entry["eval_loss"] == plain.evaluate(plain.train_dataset)["eval_loss"]


@pytest.mark.parametrize("family_name", ["llama", "gpt2"], ids=["head of its own", "tied head"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_auto_misses_the_fused_head_and_falls_back_to_the_right_estimate(
    kind: str, family_name: str, tokenizer: Any, tmp_path: Path
) -> None:
    taken = []
    for placement in ("auto", "snapshot"):
        model = make(family_name)[0].to(torch.bfloat16)
        zo = zoft.ZOConfig(method="mezo", placement=placement)
        trainer = trainer_of(kind, tmp_path / placement, tokenizer, model=model, zo=zo, max_steps=1, bf16=True)
        says = (
            warnings.catch_warnings() if placement == "snapshot" else pytest.warns(zoft.ZoftWarning, match=r"lm_head")
        )
        with says:
            trainer.train()
        assert trainer.zo_engine.placement == "snapshot"
        taken.append(records(tmp_path / placement))
    assert taken[0] == taken[1]


def test_unequal_shares_of_a_step_would_wait_forever(tokenizer: Any, tmp_path: Path) -> None:
    """TRL gathers its metrics in every evaluation, so each process must make as many as the others."""
    fzoo = {"method": "fzoo", "query_parallel_size": 2}
    with pytest.raises(ConfigError, match="does not divide this step of 3 directions"):
        trainer_of("sft", tmp_path, tokenizer, zo=zoft.ZOConfig(num_queries=2, **fzoo))
    trainer_of("sft", tmp_path, tokenizer, zo=zoft.ZOConfig(num_queries=3, **fzoo))
