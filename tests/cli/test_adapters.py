"""``--use_peft`` end to end: what is trained, kept, replayed, merged, resumed, and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from tests.cli.runs import STEPS
from zoft.cli import adapters
from zoft.cli.arguments.adapter import AdapterArguments
from zoft.cli.arguments.model import ModelArguments
from zoft.cli.config import parse_arguments
from zoft.cli.models import load_model_and_tokenizer
from zoft.cli.replay import main as replay
from zoft.cli.starts import start_of
from zoft.cli.train import main as train
from zoft.errors import ConfigError
from zoft.log_file import LOG_NAME
from zoft.tasks.encoding import PromptEncoder
from zoft.tasks.prompted import PromptedTask
from zoft.tasks.scoring import option_scores

# PEFT on a head trained beside the adapter of a model that ties it.
pytestmark = pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning")

KINDS = {
    "lora": ["--lora_r", "2"],
    "rslora": ["--lora_r", "4", "--use_rslora", "--lora_target_modules", "all-linear"],
    "dora": ["--lora_r", "2", "--use_dora"],
    "head": ["--lora_r", "2", "--lora_modules_to_save", "lm_head"],
    "embedding": ["--lora_r", "2", "--lora_modules_to_save", "embed_tokens"],
    "ia3": ["--peft_type", "ia3"],
    "prefix": ["--peft_type", "prefix_tuning", "--num_virtual_tokens", "3"],
    "prompt": ["--peft_type", "prompt_tuning", "--num_virtual_tokens", "3"],
}
MERGED = [kind for kind in KINDS if kind not in ("prefix", "prompt")]
INIT_TEXT = "the film is great and it was lovely"
ADAPTER = start_of(parse_arguments(["--use_peft"]))
assert ADAPTER is not None


@pytest.fixture(scope="module", params=KINDS)
def run(request: pytest.FixtureRequest, recipe: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    train(["--config", recipe, "--output_dir", str(folder), "--use_peft", *KINDS[request.param]])
    return folder


def run_of(kind: str, recipe: str, folder: Path, *flags: str) -> Path:
    train(["--config", recipe, "--output_dir", str(folder), "--use_peft", *KINDS[kind], *flags])
    return folder


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        output: Tensor = model.eval()(input_ids=torch.arange(2, 14)[None]).logits
    return output


def refused(capsys: pytest.CaptureFixture[str], main: Any, *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(list(argv))
    assert caught.value.code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


# --- what a run leaves ---------------------------------------------------------------------------------


def test_a_run_leaves_an_adapter_that_loads_and_replays(
    run: Path, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not (run / "model.safetensors").exists()
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), run)
    start = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), ADAPTER.folder(run / LOG_NAME))
    assert not torch.equal(logits(model), logits(start))
    replay(["--config", str(run / "resolved_config.yaml"), "--verify", str(run)])
    assert f"replayed {STEPS} steps" in (said := capsys.readouterr().out) and "bit-identical" in said


@pytest.mark.parametrize("kind", MERGED)
def test_a_merged_model_computes_what_base_and_adapter_compute(
    kind: str, recipe: str, base: str, tmp_path: Path
) -> None:
    """Also where one of two tied matrices was trained alone."""
    folder = run_of(kind, recipe, tmp_path / "run", "--learning_rate", "0.1", "--max_steps", "5")
    flags = ["--config", str(folder / "resolved_config.yaml"), "--save_to", str(tmp_path / "merged")]
    replay([*flags, "--merge_adapter"])
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    torch.testing.assert_close(logits(merged), logits(adapted), atol=2e-5, rtol=1e-4)
    written = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert written["tie_word_embeddings"] == (kind not in ("head", "embedding"))
    assert (logits(merged) - logits(AutoModelForCausalLM.from_pretrained(base))).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_virtual_tokens_are_not_merged(
    kind: str, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_of(kind, recipe, tmp_path / "run", "--max_steps", "2")
    flags = ["--config", str(folder / "resolved_config.yaml"), "--merge_adapter"]
    said = refused(capsys, replay, *flags, "--save_to", str(tmp_path / "merged"))
    assert "adds virtual tokens, which cannot become weights" in said
    assert "say where with --save_to" in refused(capsys, replay, *flags)
    assert not (tmp_path / "merged").exists()


def test_without_an_adapter_there_is_nothing_to_merge(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(["--config", recipe, "--output_dir", str(tmp_path), "--max_steps", "2"])
    flags = ["--config", str(tmp_path / "resolved_config.yaml"), "--merge_adapter", "--save_to", str(tmp_path / "m")]
    assert "this run trained no adapter" in refused(capsys, replay, *flags)


# --- the start -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lora", "dora", "prefix", "prompt"])
def test_replay_and_resume_begin_where_the_run_began(
    kind: str, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another machine, or another number of threads, computes a start that differs in its last bits."""
    whole = run_of(kind, recipe, tmp_path / "whole")
    cut = shutil.copytree(whole, tmp_path / "cut")
    (cut / "zo_log").write_bytes((whole / "zo_log").read_bytes()[:-1])

    make = adapters.with_adapter

    def elsewhere(*args: Any, **kwargs: Any) -> PeftModel:
        model = make(*args, **kwargs)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.mul_(1 + 2**-22)
        return model

    monkeypatch.setattr(adapters, "with_adapter", elsewhere)
    resolved = str(whole / "resolved_config.yaml")
    replay(["--config", resolved, "--verify", str(whole)])
    assert "bit-identical" in capsys.readouterr().out
    run_of(kind, recipe, cut, "--resume")
    assert (cut / "zo_log").read_bytes() == (whole / "zo_log").read_bytes()
    assert load_equal(cut / "adapter_model.safetensors", whole / "adapter_model.safetensors")

    shutil.rmtree(ADAPTER.folder(whole / LOG_NAME))
    assert "this is not the log's base model" in refused(capsys, replay, "--config", resolved)


def test_each_log_in_a_folder_keeps_its_own_start(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run started afresh puts the earlier log aside, and the earlier adapter's start with it."""
    run = run_of("prefix", recipe, tmp_path / "run")
    resolved = shutil.copy(run / "resolved_config.yaml", tmp_path)
    (tmp_path / "first").mkdir()
    shutil.copy(run / "adapter_model.safetensors", tmp_path / "first")
    shutil.copy(run / "adapter_config.json", tmp_path / "first")
    run_of("prefix", recipe, run, "--virtual_tokens_init_text", "quite another text")
    assert ADAPTER.folder(run / "zo_log.1").is_dir()
    replay(["--config", str(resolved), "--log", str(run / "zo_log.1"), "--verify", str(tmp_path / "first")])
    assert "bit-identical" in capsys.readouterr().out


def test_a_branch_starts_from_the_same_adapter(recipe: str, tmp_path: Path) -> None:
    run = run_of("prefix", recipe, tmp_path / "run")
    branch = tmp_path / "branch"
    replay(["--config", str(run / "resolved_config.yaml"), "--upto_step", "1", "--branch_to", str(branch)])
    assert load_equal(*(ADAPTER.folder(folder / LOG_NAME) / "adapter_model.safetensors" for folder in (run, branch)))
    run_of("prefix", recipe, branch, "--resume")
    assert (branch / LOG_NAME).read_bytes() == (run / LOG_NAME).read_bytes()


def load_equal(a: Path, b: Path) -> bool:
    first, second = load_file(a), load_file(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("peft_type", "config"), [("prefix_tuning", PrefixTuningConfig), ("prompt_tuning", PromptTuningConfig)]
)
def test_virtual_tokens_start_from_real_text_near_the_model_itself(peft_type: Any, config: Any, base: str) -> None:
    rows = [{"text": text, "label": 0} for text in ("a film", "it is not very good", "the film was so dull")]
    task = PromptedTask("{text} it was", ("terrible", "great"))

    def scores(model: nn.Module, tokenizer: Any) -> Tensor:
        encoder = PromptEncoder(task, tokenizer, 32)
        encoded = encoder.encode(rows)
        with torch.no_grad():
            return option_scores(model, encoder.collator()([encoded[i] for i in range(len(rows))])).log_softmax(-1)

    bare, tokenizer = load_model_and_tokenizer(ModelArguments(base))
    arguments = AdapterArguments(use_peft=True, peft_type=peft_type, virtual_tokens_init_text=INIT_TEXT)
    first, second = (load_model_and_tokenizer(ModelArguments(base), adapter=arguments, seed=s)[0] for s in (1, 2))
    want = scores(bare, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = get_peft_model(
            load_model_and_tokenizer(ModelArguments(base))[0], config(num_virtual_tokens=8, task_type="CAUSAL_LM")
        ).eval()
    moved, moved_at_random = ((scores(m, tokenizer) - want).abs().mean() for m in (first, drawn))
    assert 0 < moved < 0.75 * moved_at_random
    a, b = (m.prompt_encoder["default"].embedding.weight for m in (first, second))
    assert torch.equal(a, b), "a start from text takes no random numbers"


@pytest.mark.parametrize("peft_type", ["prefix_tuning", "prompt_tuning"])
def test_virtual_tokens_of_a_text_are_the_text_read_before(peft_type: Any, base: str) -> None:
    """The fresh adapter's model goes on as the model itself does with the text in front."""
    arguments = AdapterArguments(
        use_peft=True, peft_type=peft_type, num_virtual_tokens=10, virtual_tokens_init_text=INIT_TEXT
    )
    model, tokenizer = load_model_and_tokenizer(ModelArguments(base), adapter=arguments)
    text = (tokenizer(INIT_TEXT)["input_ids"] * 2)[:10]
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        read = model.get_base_model()(input_ids=torch.cat([torch.tensor([text]), ids], 1)).logits
        started = model(input_ids=ids).logits
    torch.testing.assert_close(started[:, -3:], read[:, -3:], atol=1e-5, rtol=1e-4)


# --- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lora_r", "4"], "lora_r is for adapters, but no adapter is trained; add --use_peft"),
        (["--peft_type", "ia3"], "peft_type is for adapters"),
        (["--use_peft", "--peft_type", "lorra"], "invalid choice: 'lorra'"),
        (
            ["--use_peft", "--num_virtual_tokens", "4"],
            "num_virtual_tokens is for peft_type prefix_tuning or prompt_tuning, but peft_type is lora",
        ),
        (["--use_peft", "--peft_type", "ia3", "--use_dora"], "use_dora is for peft_type lora, but peft_type is ia3"),
        (
            ["--use_peft", "--peft_type", "prompt_tuning", "--num_virtual_tokens", "0"],
            "num_virtual_tokens must be >= 1, got 0",
        ),
        (["--load_in_8bit", "--load_in_4bit"], "load_in_8bit and load_in_4bit exclude each other"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_at_once(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_arguments(flags)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"lora_modules_to_save": ["lm_haed"]},
            "lora_modules_to_save: no module of LlamaForCausalLM is called 'lm_haed'. Did you mean 'lm_head'?",
        ),
        ({"lora_target_modules": ["q_proj", "v_prj"]}, r"lora_target_modules: .* 'v_prj'\. Did you mean 'v_proj'?"),
        ({"lora_r": 0}, "lora_r=0"),
        ({"peft_type": "ia3", "ia3_target_modules": ["no_such"]}, "ia3_target_modules: no module .* 'no_such'"),
        ({"peft_type": "prompt_tuning", "virtual_tokens_init_text": ""}, "virtual_tokens_init_text: expected some"),
    ],
)
def test_options_that_do_not_fit_the_model_are_named(arguments: dict[str, Any], message: str, base: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_model_and_tokenizer(ModelArguments(base), adapter=AdapterArguments(use_peft=True, **arguments))


def test_lora_dropout_is_said_to_do_nothing(base: str) -> None:
    with pytest.warns(UserWarning, match=r"lora_dropout=0\.1 has no effect"):
        load_model_and_tokenizer(ModelArguments(base), adapter=AdapterArguments(use_peft=True, lora_dropout=0.1))


def test_a_run_in_which_nothing_changes_fails(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--config", recipe, "--output_dir", str(tmp_path), "--max_steps", "2", "--learning_rate", "1e-30"]
    said = refused(capsys, train, *flags)
    assert "no trained weight changed by a single bit in 2 steps" in said and "Raise learning_rate" in said
    assert not (tmp_path / "metrics.json").exists()
    assert not (tmp_path / "model.safetensors").exists()
