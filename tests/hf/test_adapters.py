"""Every kind of adapter: only it moves, base and log are it again, and it works where it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import nn

import zoft
from tests.core.conftest import VOCABULARY, make
from tests.core.runs import digest
from tests.methods import claims, methods

TASKS = {"llama": "CAUSAL_LM", "gpt2": "CAUSAL_LM", "bert": "FEATURE_EXTRACTION", "t5": "SEQ_2_SEQ_LM"}
TARGETS = {"llama": ["q_proj", "v_proj"], "gpt2": ["c_attn"], "bert": ["query", "value"], "t5": ["q", "v"]}
HEADS = {"llama": "lm_head", "gpt2": "lm_head", "bert": "decoder", "t5": "lm_head"}

CONFIGS: dict[str, Callable[[str], Any]] = {
    "lora": lambda f: LoraConfig(r=2, target_modules=TARGETS[f], task_type=TASKS[f]),
    "dora": lambda f: LoraConfig(r=2, target_modules=TARGETS[f], use_dora=True, task_type=TASKS[f]),
    "ia3": lambda f: IA3Config(task_type=TASKS[f]),
    "prefix": lambda f: PrefixTuningConfig(num_virtual_tokens=3, task_type=TASKS[f]),
    "prompt": lambda f: PromptTuningConfig(num_virtual_tokens=3, task_type=TASKS[f]),
    "head": lambda f: LoraConfig(r=2, target_modules=TARGETS[f], modules_to_save=[HEADS[f]], task_type=TASKS[f]),
    "embedding": lambda f: LoraConfig(r=2, target_modules=["embed_tokens"], task_type=TASKS[f]),
}

CASES = [
    *[("llama", kind) for kind in CONFIGS],
    *[("gpt2", kind) for kind in ("lora", "dora", "ia3", "prefix", "prompt", "head")],
    *[("bert", kind) for kind in ("lora", "ia3", "prompt")],
    *[("t5", kind) for kind in ("lora", "ia3", "prefix", "prompt")],
]
cases = pytest.mark.parametrize(("family", "kind"), CASES, ids=["-".join(case) for case in CASES])

# PEFT on what it is asked for here: heads of tied models, Conv1D, adapted embeddings.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*fan_in_fan_out:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*save_embedding_layers:UserWarning"),
]


def make_base(family: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A model whose outputs depend on its inputs enough for an adapter to matter."""
    base, _ = make(family)
    with torch.no_grad():
        for parameter in base.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(10 if family != "t5" else 1)
    return base.to(dtype)


def adapted(family: str, kind: str, dtype: torch.dtype = torch.float32) -> PeftModel:
    base = make_base(family, dtype)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return get_peft_model(base, CONFIGS[kind](family))


def loss_of(model: nn.Module, family: str) -> Callable[[], torch.Tensor]:
    ids = torch.randint(3, VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(1))
    if family != "bert":
        return lambda: model(input_ids=ids, labels=ids).loss
    # PEFT does not lengthen the labels of a masked model by the virtual tokens.
    return lambda: nn.functional.cross_entropy(model(input_ids=ids).logits[:, -7:].flatten(0, 1), ids.flatten())


def train(
    model: PeftModel, family: str, log: Path | None = None, *, steps: int = 3, lr: float = 1e-2, **options: Any
) -> zoft.ZOOptimizer:
    opt = zoft.ZOOptimizer(
        model, lr, zoft.ZOConfig(**{"method": "mezo", "zo_eps": 1e-2, "num_queries": 2, **options}), log=log
    )
    loss = loss_of(model, family)
    for _ in range(steps):
        opt.step(loss)
    opt.close_log()
    return opt


def trained_names(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


@cases
def test_only_the_adapter_moves_and_base_and_log_are_the_trained_adapter(
    family: str, kind: str, tmp_path: Path
) -> None:
    model = adapted(family, kind)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, family, tmp_path / "log")
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == trained_names(model) != set()

    fresh = adapted(family, kind)
    assert digest(fresh) != digest(model)
    assert zoft.replay(fresh, tmp_path / "log") == 3
    assert digest(fresh) == digest(model)


@cases
def test_a_saved_adapter_gives_the_same_outputs_over_a_fresh_base(family: str, kind: str, tmp_path: Path) -> None:
    model = adapted(family, kind)
    train(model, family, lr=0.1)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_config.json").exists() and (tmp_path / "adapter_model.safetensors").exists()
    loaded = PeftModel.from_pretrained(make_base(family), tmp_path)
    start = adapted(family, kind)
    with torch.no_grad():
        losses = [float(loss_of(m.eval(), family)()) for m in (model, loaded, start)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("method", methods())
@cases
def test_every_placement_makes_the_same_run(family: str, kind: str, method: str, tmp_path: Path) -> None:
    """Losses through other kernels differ in their last bits, which lr = 0 keeps from growing."""
    if not claims(method, "stream"):
        pytest.skip("refused by the method")
    records = {}
    for placement in ("snapshot", "stream", "auto"):
        opt = train(adapted(family, kind), family, placement=placement, method=method, lr=0.0, steps=1)
        assert placement in (opt.engine.placement, "auto")
        records[placement] = opt.last_record
    assert records["stream"] == records["snapshot"] == records["auto"]


# Learning rate and perturbation that suit what each kind trains.
SCALES = {"ia3": (0.3, 0.1), "prefix": (1.0, 0.1), "prompt": (5.0, 0.1), "head": (1e-2, 0.02)}


@cases
def test_every_adapter_lowers_the_loss(family: str, kind: str) -> None:
    _lowers_the_loss(family, kind, torch.float32)


@pytest.mark.parametrize("kind", CONFIGS)
def test_float32_adapters_over_a_bf16_base_lower_the_loss(kind: str) -> None:
    model = _lowers_the_loss("llama", kind, torch.bfloat16)
    adapters = {n: p.dtype for n, p in model.named_parameters() if p.requires_grad and "modules_to_save" not in n}
    assert set(adapters.values()) == {torch.float32}


def _lowers_the_loss(family: str, kind: str, dtype: torch.dtype) -> PeftModel:
    model = adapted(family, kind, dtype).eval()
    loss = loss_of(model, family)
    lr, zo_eps = SCALES.get(kind, (0.1, 0.05))
    with torch.no_grad():
        before = float(loss())
        train(model, family, steps=20, lr=lr, zo_eps=zo_eps, num_queries=4)
        assert float(loss()) < before - 0.05
    return model


def test_a_head_trained_beside_the_adapter_is_its_own_though_the_base_ties_it(tmp_path: Path) -> None:
    base, _ = make("gpt2")
    assert base.lm_head.weight is base.transformer.wte.weight
    model = adapted("gpt2", "head")
    embeddings = model.get_base_model().transformer.wte.weight.detach().clone()
    train(model, "gpt2")
    assert torch.equal(model.get_base_model().transformer.wte.weight, embeddings)
    assert not torch.equal(model.get_base_model().lm_head.weight, embeddings)


def test_parameters_held_in_containers_are_streamed_with_the_module_around_them() -> None:
    """IA3 keeps its vectors in a ParameterDict, whose forward nobody calls."""
    opt = train(adapted("llama", "ia3"), "llama", placement="stream", steps=1)
    assert opt.engine.placement == "stream"
