"""Loading models from a folder, a GGUF file, a packaged name or the Hub; LoRA; clear refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from zoft.cli.arguments.adapter import AdapterArguments
from zoft.cli.arguments.model import ModelArguments
from zoft.cli.models import load_model_and_tokenizer
from zoft.errors import AssetError, ConfigError, ZoftWarning

pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"  # inside PEFT
)


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(["<unk>", "<eos>", "[MASK]", "a", "b"])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>", mask_token="[MASK]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, words: PreTrainedTokenizerFast) -> str:
    path = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    words.save_pretrained(path)
    return str(path)


def test_auto_dtype_is_float32_without_a_gpu(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model, tokenizer = load_model_and_tokenizer(ModelArguments(folder))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert tokenizer.eos_token == "<eos>"
    model, _ = load_model_and_tokenizer(ModelArguments(folder, dtype="bfloat16"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_lora_is_decided_by_the_seed_and_leaves_the_random_state(folder: str) -> None:
    adapter = AdapterArguments(use_peft=True, lora_r=2, lora_target_modules=["all-linear"])
    state = torch.get_rng_state()
    first, second, other = (
        load_model_and_tokenizer(ModelArguments(folder), adapter=adapter, seed=seed)[0] for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    trainable = {name: p for name, p in first.named_parameters() if p.requires_grad}
    assert trainable
    assert all("lora_" in name for name in trainable)
    assert all(torch.equal(trainable[name], second.get_parameter(name)) for name in trainable)
    assert not all(torch.equal(trainable[name], other.get_parameter(name)) for name in trainable)


def test_unknown_lora_module_is_refused(folder: str) -> None:
    adapter = AdapterArguments(use_peft=True, lora_target_modules=["no_such_module"])
    with pytest.raises(ConfigError, match=r"lora_target_modules: no module .* 'no_such_module'"):
        load_model_and_tokenizer(ModelArguments(folder), adapter=adapter)


def test_checkpoint_without_a_language_head_warns(tmp_path: Path, words: PreTrainedTokenizerFast) -> None:
    config = BertConfig(vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    BertModel(config).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    with pytest.warns(ZoftWarning, match="does not hold .* start out random"):
        load_model_and_tokenizer(ModelArguments(str(tmp_path)), "masked")


def test_model_of_the_wrong_kind_is_refused(folder: str) -> None:
    with pytest.raises(ConfigError, match="as a masked language model"):
        load_model_and_tokenizer(ModelArguments(folder), "masked")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "model_name_or_path is missing"),
        ("./no_such_folder", "there is no folder './no_such_folder'"),
        ("no_such_file.gguf", "there is no file 'no_such_file.gguf'"),
    ],
)
def test_missing_local_model_is_refused_without_asking_the_hub(name: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_model_and_tokenizer(ModelArguments(name))


def test_unknown_packaged_model_lists_the_known_ones() -> None:
    with pytest.raises(AssetError, match="Known: packaged:smollm2"):
        load_model_and_tokenizer(ModelArguments("packaged:gpt5"))
    with pytest.raises(ConfigError, match="gguf_file does not go with"):
        load_model_and_tokenizer(ModelArguments("packaged:gpt5", gguf_file="a.gguf"))


def test_unreachable_hub_names_the_packaged_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **options: object) -> None:
        raise OSError("We couldn't connect to the Hub")

    monkeypatch.setattr("zoft.cli.models.AutoTokenizer.from_pretrained", offline)
    with pytest.raises(ConfigError, match=r"(?s)couldn't connect.*packaged:smollm2-135m-instruct"):
        load_model_and_tokenizer(ModelArguments("someone/some-model"))


def test_gguf_file_goes_through_the_one_gguf_loader(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: PreTrainedTokenizerFast
) -> None:
    (tmp_path / "m.gguf").touch()
    calls: list[tuple[str, str, torch.dtype]] = []

    def load_gguf(where: str, file: str, *, dtype: torch.dtype, attn_implementation: str | None) -> object:
        calls.append((where, file, dtype))
        return torch.nn.Linear(1, 1), words

    monkeypatch.setattr("zoft.cli.models.load_gguf", load_gguf)
    load_model_and_tokenizer(ModelArguments(str(tmp_path / "m.gguf"), dtype="bfloat16"))
    load_model_and_tokenizer(ModelArguments("someone/model", gguf_file="m.gguf", dtype="float32"))
    assert calls == [(str(tmp_path), "m.gguf", torch.bfloat16), ("someone/model", "m.gguf", torch.float32)]
    with pytest.raises(ConfigError, match="GGUF files hold causal models"):
        load_model_and_tokenizer(ModelArguments(str(tmp_path / "m.gguf")), "masked")
