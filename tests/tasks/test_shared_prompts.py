"""Options that share their prompt have the scores of options in rows of their own, or the prompt is not shared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import peft
import pytest
import torch
import transformers as hf
from torch import nn

import zoft
from tests.tasks.architectures import ARCHITECTURES, make_model, tokenizer_for
from zoft.tasks.choices import ChoiceTask
from zoft.tasks.encoding import PromptEncoder
from zoft.tasks.option_tokens import NO_TOKEN
from zoft.tasks.scoring import option_losses, option_scores
from zoft.tasks.shared_prompts import learn_whether_prompts_are_shared, share_prompts

CAUSAL = [name for name, (kind, _) in ARCHITECTURES.items() if kind == "causal"]
ROWS = [
    {
        "stem": "The mill by the river was, as everybody knew,",
        "options": ["shut", "open all day long", "sold to a man from Vik", "old"],
        "label": 1,
    },
    {"stem": "Who", "options": ["sings?", "is it that came back so late?"], "label": 0},
    {"stem": "It is a fine day for all of us,", "options": ["said she", "he thought to himself", "no"], "label": 2},
]
VOCABULARY = len(tokenizer_for("causal"))
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def batch_of(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    encoder = PromptEncoder(ChoiceTask("{stem}", choices_column="options"), tokenizer_for("causal"), kind="causal")
    return encoder.collator()(encoder.encode(rows).examples)


@contextmanager
def rows_read(model: nn.Module) -> Iterator[list[tuple[int, ...]]]:
    """What shapes of input the model is given."""
    shapes: list[tuple[int, ...]] = []

    def note(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        shapes.append(tuple(kwargs["input_ids"].shape))

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    yield shapes
    handle.remove()


def mistral(window: int | None) -> hf.PreTrainedModel:
    torch.manual_seed(0)
    config = hf.MistralConfig(
        **SMALL, intermediate_size=48, num_key_value_heads=2, sliding_window=window, initializer_range=0.2
    )
    return hf.MistralForCausalLM(config).eval()


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CAUSAL)
def test_sharing_a_prompt_changes_no_score_and_reads_less(name: str, attention: str) -> None:
    model, batch = make_model(name), batch_of(ROWS)
    model.set_attn_implementation(attention)
    with rows_read(model) as alone:
        want = option_scores(model, batch)
    assert learn_whether_prompts_are_shared(model)
    with rows_read(model) as together:
        got = option_scores(model, batch)
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)
    options = int((batch["option_ids"] != NO_TOKEN).any(-1).sum())
    assert alone[0][0] == options and together[0][0] == len(ROWS)
    assert together[0][0] * together[0][1] < alone[0][0] * alone[0][1]


@pytest.mark.parametrize("name", CAUSAL)
def test_gradients_are_those_of_options_alone(name: str) -> None:
    found = []
    for asked in (False, True):
        model = make_model(name)
        if asked:
            learn_whether_prompts_are_shared(model)
        option_losses(model, batch_of(ROWS)).mean().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for parameter, gradient in found[0].items():
        torch.testing.assert_close(found[1][parameter], gradient, atol=1e-5, rtol=1e-4, msg=parameter)


def test_each_option_stands_behind_its_prompt_and_sees_no_other() -> None:
    batch = batch_of(ROWS)
    shared = share_prompts(batch)
    tokens, positions, mask = shared["input_ids"], shared["position_ids"], shared["attention_mask"][:, 0]
    for index in range(len(ROWS)):
        for option, ids in enumerate(batch["option_ids"][index].tolist()):
            wanted = [token for token in ids if token != NO_TOKEN]
            places = shared["option_positions"][index].view(batch["option_ids"].shape[1], -1)[option]
            for count, place in enumerate(places[: len(wanted)].tolist()):
                seen = mask[index, place].nonzero().flatten()
                alone = batch["attention_mask"][index, option].bool()
                read = batch["input_ids"][index, option][alone].tolist()[: len(seen)]
                assert tokens[index, seen].tolist() == read, "the prompt, then this option so far"
                assert positions[index, seen].tolist() == list(range(len(seen)))
                assert read[len(read) - count :] == wanted[:count]


# --- who is not asked to, and who cannot -------------------------------------------------------------------


def bloom() -> nn.Module:  # positions are distances in the input
    return hf.BloomForCausalLM(hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4))


def mamba() -> nn.Module:  # reads its input in order
    return hf.MambaForCausalLM(hf.MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=8))


def prefixed() -> nn.Module:  # PEFT puts its own columns before a mask of rows
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    return peft.get_peft_model(make_model("llama"), config)


def prompted() -> nn.Module:
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    return peft.get_peft_model(make_model("llama"), config)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")  # Mamba misses its kernels
@pytest.mark.parametrize("make", [bloom, mamba, prefixed, prompted])
def test_a_model_that_would_read_it_otherwise_keeps_a_row_for_each_option(make: Any) -> None:
    torch.manual_seed(0)
    model, batch = make().eval(), batch_of(ROWS)
    want = option_scores(model, batch)
    assert not learn_whether_prompts_are_shared(model)
    assert torch.equal(option_scores(model, batch), want)


@torch.no_grad()
def test_a_model_that_was_not_asked_shares_nothing() -> None:
    model, batch = make_model("llama"), batch_of(ROWS)
    with rows_read(model) as shapes:
        option_scores(model, batch)
    assert shapes[0][0] == int((batch["option_ids"] != NO_TOKEN).any(-1).sum())


@torch.no_grad()
@pytest.mark.parametrize("window", [8, 32, 4096])
def test_beyond_its_window_a_layer_would_look_back_too_far_so_nothing_is_shared(window: int) -> None:
    model, batch = mistral(window), batch_of(ROWS)
    want = option_scores(model, batch)
    learn_whether_prompts_are_shared(model)
    with rows_read(model) as shapes:
        got = option_scores(model, batch)
    assert (shapes[0][0] == len(ROWS)) == (window == 4096)
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_where_sharing_saves_nothing_rows_stay_as_they_are() -> None:
    """One option each is what training on the answer alone evaluates."""
    model, batch = make_model("llama"), batch_of([{**row, "options": row["options"][:1], "label": 0} for row in ROWS])
    want = option_scores(model, batch)
    assert learn_whether_prompts_are_shared(model)
    assert torch.equal(option_scores(model, batch), want)


def test_asking_leaves_modes_weights_and_random_state_alone() -> None:
    model = make_model("llama").train()
    model.model.norm.eval()
    weights, state = [p.clone() for p in model.parameters()], torch.get_rng_state()
    assert learn_whether_prompts_are_shared(model)
    assert model.training and not model.model.norm.training
    assert all(map(torch.equal, model.parameters(), weights)) and torch.equal(torch.get_rng_state(), state)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_prompts_are_shared_in_other_precisions(dtype: torch.dtype) -> None:
    model, batch = mistral(None).to(dtype), batch_of(ROWS)
    want = option_scores(model, batch)
    assert learn_whether_prompts_are_shared(model)
    tolerance = 5e-2 if dtype == torch.bfloat16 else 1e-6  # scores are in fp32
    torch.testing.assert_close(option_scores(model, batch), want, atol=tolerance, rtol=tolerance)


# --- in a step ---------------------------------------------------------------------------------------------

WAYS: dict[str, dict[str, Any]] = {
    "stream": {"placement": "stream"},
    "snapshot": {"placement": "snapshot"},
    "inplace": {"placement": "inplace"},
    "batched": {"placement": "batched"},
    "a direction for each example": {"shared_vector": "example", "num_queries": len(ROWS)},
    "dual": {"method": "forward_grad"},
}


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_step_finds_the_slopes_of_options_alone(way: str, adapted: bool) -> None:
    found = []
    for asked in (False, True):
        model: nn.Module = make_model("llama")
        if adapted:
            torch.manual_seed(0)
            model = peft.get_peft_model(
                model, peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
            )
        if asked:
            assert learn_whether_prompts_are_shared(model)
        optimizer = zoft.ZOOptimizer(
            model.eval(), 1e-3, zoft.ZOConfig(**{"method": "mezo", "zo_eps": 1e-2, **WAYS[way]})
        )
        each = way.startswith("a ")  # then rows must be as many for each example
        batch = batch_of([{**row, "options": row["options"][:2], "label": 0} for row in ROWS] if each else ROWS)
        reduce = (lambda losses: losses) if each else torch.mean
        losses = []
        for _ in range(2):
            loss = optimizer.step(lambda model=model, batch=batch, reduce=reduce: reduce(option_losses(model, batch)))
            losses.append(float(loss))
        found.append(losses)
    assert found[1] == pytest.approx(found[0], abs=2e-5)
