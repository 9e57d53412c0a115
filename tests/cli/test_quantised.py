"""A frozen base in int8: adapters train over it, and not one of its bits moves."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, TorchAoConfig

import zoft
from tests.cli.runs import STEPS
from zoft.cli.arguments.adapter import AdapterArguments
from zoft.cli.arguments.model import ModelArguments
from zoft.cli.models import load_model_and_tokenizer
from zoft.cli.replay import main as replay
from zoft.cli.train import main as train
from zoft.errors import ConfigError, ReplayError
from zoft.replay_log import fingerprint

torchao = pytest.importorskip("torchao.quantization")

# PEFT on an embedding trained beside the adapter of a model that ties it.
pytestmark = pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning")

KINDS: dict[str, dict[str, Any]] = {
    "lora": {"lora_r": 2},
    "dora": {"lora_r": 2, "use_dora": True},
    "head": {"lora_r": 2, "lora_modules_to_save": ["embed_tokens"]},
    "ia3": {"peft_type": "ia3"},
    "prefix": {"peft_type": "prefix_tuning", "num_virtual_tokens": 3},
    "prompt": {"peft_type": "prompt_tuning", "num_virtual_tokens": 3},
}


def load(base: str, kind: str, **quantise: bool) -> Any:
    return load_model_and_tokenizer(
        ModelArguments(base, **(quantise or {"load_in_8bit": True})),
        adapter=AdapterArguments(use_peft=True, **KINDS[kind]),
    )[0]


def quantised(base: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, quantization_config=TorchAoConfig(torchao.Int8WeightOnlyConfig()))


def loss_of(model: torch.nn.Module, device: str = "cpu") -> Any:
    ids = torch.randint(2, 18, (3, 6), generator=torch.Generator().manual_seed(1)).to(device)
    return lambda: model(input_ids=ids, labels=ids).loss


def step(model: torch.nn.Module, log: Path | None = None, *, steps: int = 3, **options: Any) -> zoft.ZOOptimizer:
    opt = zoft.ZOOptimizer(model, 1e-2, zoft.ZOConfig(**{"method": "mezo", "zo_eps": 1e-2, **options}), log=log)
    for _ in range(steps):
        opt.step(loss_of(model, opt.param_groups[0]["params"][0].device.type))
    opt.close_log()
    return opt


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_adapter_moves_and_base_and_log_are_the_trained_adapter(kind: str, base: str, tmp_path: Path) -> None:
    model = load(base, kind)
    if kind != "head":
        assert "Int8Tensor" in {type(p).__name__ for p in model.parameters()}
    before = fingerprint(model)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    step(model, tmp_path / "log")
    after = fingerprint(model)
    assert {name for name in before if after[name] != before[name]} == trained != set()
    fresh = load(base, kind)
    assert zoft.replay(fresh, tmp_path / "log") == 3
    assert fingerprint(fresh) == after


@pytest.mark.parametrize("kind", KINDS)
def test_every_placement_makes_the_same_estimate(kind: str, base: str) -> None:
    first = [step(load(base, kind), placement=p, steps=1).last_record for p in ("snapshot", "stream")]
    assert first[0] == first[1]


@pytest.mark.parametrize("part", ["qdata", "scale"])
def test_a_changed_quantised_weight_is_named(part: str, base: str, tmp_path: Path) -> None:
    model = load(base, "lora")
    step(model, tmp_path / "log")
    other = load(base, "lora")
    name = "base_model.model.model.layers.1.mlp.up_proj.weight"
    tensor = getattr(other.get_parameter(name), part)
    tensor.view(-1).view(torch.uint8)[3] ^= 1
    with pytest.raises(ReplayError, match=f"this is not the log's base model: {name} differs first"):
        zoft.replay(other, tmp_path / "log")


def test_the_command_trains_saves_replays_and_resumes_over_int8(
    recipe: str, base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    flags = ["--config", recipe, "--use_peft", "--load_in_8bit", "--zo_num_queries", "4", "--learning_rate", "5e-2"]
    train([*flags, "--output_dir", str(folder)])
    resolved = ["--config", str(folder / "resolved_config.yaml")]
    replay([*resolved, "--verify", str(folder)])
    assert f"replayed {STEPS} steps" in (said := capsys.readouterr().out) and "bit-identical" in said

    loaded = PeftModel.from_pretrained(quantised(base), folder)
    start = load(base, "lora")
    with torch.no_grad():
        assert float(loss_of(loaded.eval())()) != float(loss_of(start.eval())())

    cut = shutil.copytree(folder, tmp_path / "cut")
    (cut / "zo_log").write_bytes((folder / "zo_log").read_bytes()[:-1])
    train([*flags, "--output_dir", str(cut), "--resume"])
    assert (cut / "zo_log").read_bytes() == (folder / "zo_log").read_bytes()

    with pytest.raises(SystemExit):
        replay([*resolved, "--save_to", str(tmp_path / "merged"), "--merge_adapter"])
    assert "merging into a quantised base would round the adapter away" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        replay([*resolved, "--load_in_8bit", "False"])
    assert "this is not the log's base model" in capsys.readouterr().err


def test_quantised_weights_themselves_are_not_trained(base: str) -> None:
    with pytest.raises(
        ConfigError, match="Quantised weights cannot be trained, only adapters over them: add --use_peft"
    ):
        load_model_and_tokenizer(ModelArguments(base, load_in_8bit=True))
    with pytest.raises(ConfigError, match="load_in_4bit needs a CUDA device"):
        load_model_and_tokenizer(ModelArguments(base, load_in_4bit=True), adapter=AdapterArguments(use_peft=True))


def test_a_quantised_weight_that_asks_to_be_trained_is_named(base: str) -> None:
    model = quantised(base).requires_grad_(True)
    with pytest.raises(ConfigError, match=r"q_proj\.weight is quantised, so it cannot be trained"):
        zoft.ZOOptimizer(model, 1e-3)


def test_a_checkpoint_that_is_quantised_already_needs_an_adapter_too(base: str, tmp_path: Path) -> None:
    quantised(base).save_pretrained(tmp_path)
    shutil.copytree(base, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    with pytest.raises(ConfigError, match=r"is a quantised model\. Quantised weights cannot be trained"):
        load_model_and_tokenizer(ModelArguments(str(tmp_path)))


def test_a_missing_package_is_named(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoft.cli.quantised.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package 'torchao', .*; run: pip install torchao"):
        load(base, "lora")


@pytest.mark.gpu
@pytest.mark.parametrize("bits", ["load_in_8bit", "load_in_4bit"])
def test_bitsandbytes_on_a_gpu(bits: str, base: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    model = load(base, "lora", **{bits: True})
    before = fingerprint(model)
    step(model, tmp_path / "log")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    after = fingerprint(model)
    assert {name for name in before if after[name] != before[name]} == trained != set()
    fresh = load(base, "lora", **{bits: True})
    assert zoft.replay(fresh, tmp_path / "log") == 3
    assert fingerprint(fresh) == after
