"""TRL's trainers, whose losses gather metrics of what they see: private, they log none of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

import zoft
from tests.core.conftest import make
from tests.core.runs import digest
from tests.hf.test_trl import dialogues, lora, options_of, preferences, tokenizer  # noqa: F401  # a fixture
from tests.privacy.runs import Noise, promise
from zoft.errors import ConfigError
from zoft.log_file import ReplayLog

PUBLIC = {"learning_rate", "projected_grad", "epsilon", "epoch", "step"}
KINDS: dict[str, Any] = {
    "sft": (SFTConfig, SFTTrainer, dialogues),
    "dpo": (DPOConfig, DPOTrainer, preferences),
    "kto": (KTOConfig, KTOTrainer, preferences),
}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")


def private(
    kind: str, folder: Path, words: Any, *, callback: bool = False, model: nn.Module | None = None, **changes: Any
) -> Any:
    config, trainer, data = KINDS[kind]
    zo, ours = zoft.ZOConfig(method="mezo", zo_eps=1e-2, num_queries=2), {"privacy": promise()}
    model = make("llama")[0] if model is None else model
    others: dict[str, Any] = {"callbacks": [zoft.ZOCallback(zo, **ours)]} if callback else {"zo": zo, **ours}
    if kind != "sft" and not hasattr(model, "peft_config"):
        others["ref_model"] = make("llama", seed=1)[0]
    made = trainer if callback else type("Mixed", (zoft.ZOTrainerMixin, trainer), {})
    return made(
        model=model,
        args=options_of(config, folder, **changes),
        train_dataset=data(),
        processing_class=words,
        **others,
    )


@pytest.mark.parametrize("callback", [False, True], ids=["mixin", "callback"])
@pytest.mark.parametrize("kind", ["sft", pytest.param("dpo", marks=pytest.mark.slow)])
def test_trls_metrics_stay_out_of_the_logs(
    kind: str,
    callback: bool,
    tokenizer: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    trainer = private(kind, tmp_path, tokenizer, callback=callback, gradient_accumulation_steps=2)
    trainer.train()
    assert any(trainer._metrics["train"].values()), "TRL does gather them"
    assert set().union(*trainer.state.log_history) <= PUBLIC
    assert trainer.state.num_input_tokens_seen == 0 and trainer.state.total_flos == 0
    base = private(kind, tmp_path / "base", tokenizer).model
    zoft.replay(base, tmp_path / "zo_log")
    assert digest(base) == digest(trainer.model)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_an_examples_vector_is_the_same_in_any_company(
    kind: str,
    no_noise: Noise,
    tokenizer: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    """At a sampling rate of one, the sum over all is the sum of what each adds alone: exactly, in integers."""
    trainer = private(kind, tmp_path, tokenizer, per_device_train_batch_size=16, max_steps=1)
    rows = trainer.train_dataset
    trainer.train()
    alone = [0.0, 0.0]
    for number in range(16):
        single = private(kind, tmp_path / str(number), tokenizer, per_device_train_batch_size=1, max_steps=1)
        single.train_dataset = rows.select([number])
        single.train()
        alone = [sum(pair) for pair in zip(alone, no_noise.sums[-1], strict=True)]
    assert no_noise.sums[0] == alone


@pytest.mark.slow
def test_lora_by_trl_trains_and_replays(tokenizer: Any, tmp_path: Path) -> None:  # noqa: F811
    trainer = private("sft", tmp_path, tokenizer, model=lora(), bf16=True)
    trainer.train()
    log, base = ReplayLog.open(tmp_path / "zo_log"), lora()
    assert log.intents == len(log.records) == 4
    zoft.replay(base, tmp_path / "zo_log")
    assert digest(base) == digest(trainer.model)


REFUSED = {
    "packing": ("sft", {"packing": True, "max_length": 16}, r"packing=True puts parts of several examples into one"),
    "precomputed": ("dpo", {"precompute_ref_log_probs": True}, r"precompute_ref_log_probs=True evaluates"),
    "kto": ("kto", {}, r"prepares or weighs examples by others of their batch.*SFTTrainer, DPOTrainer"),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # TRL's, of packing and of KTO
@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_what_couples_examples_is_refused(
    case: tuple[str, dict[str, Any], str],
    tokenizer: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    kind, changes, says = case
    with pytest.raises(ConfigError, match=says):
        private(kind, tmp_path, tokenizer, **changes)
