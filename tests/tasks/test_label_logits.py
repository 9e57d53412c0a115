"""Logits in portions: those of a whole run, whatever a model does to them, and never larger than a portion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

import zoft
from tests.tasks.architectures import _IDS, _SMALL, ARCHITECTURES, make_model
from zoft.bench.memory.tracker import LiveTensors
from zoft.errors import ZoftWarning
from zoft.tasks import label_logits
from zoft.tasks.label_logits import logits_at, of_logits
from zoft.tasks.option_tokens import NO_TOKEN
from zoft.tasks.scoring import answer_losses
from zoft.tasks.token_scoring import conversation_losses, token_scores

VOCABULARY, ROWS, LENGTH = 151, 3, 20

_KV = {"num_key_value_heads": 2, "initializer_range": 0.2}
OTHERS: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "gemma2, capped": lambda: hf.Gemma2ForCausalLM(
        hf.Gemma2Config(vocab_size=VOCABULARY, head_dim=8, final_logit_softcapping=3.0, **_KV, **_SMALL, **_IDS)
    ),
    "granite, divided": lambda: hf.GraniteForCausalLM(
        hf.GraniteConfig(vocab_size=VOCABULARY, logits_scaling=7.0, **_KV, **_SMALL, **_IDS)
    ),
    "cohere, scaled": lambda: hf.CohereForCausalLM(
        hf.CohereConfig(vocab_size=VOCABULARY, logit_scale=0.3, **_KV, **_SMALL, **_IDS)
    ),
    "phi, with a bias": lambda: hf.PhiForCausalLM(hf.PhiConfig(vocab_size=VOCABULARY, **_KV, **_SMALL, **_IDS)),
    "llama, tied": lambda: hf.LlamaForCausalLM(
        hf.LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=True, **_KV, **_SMALL, **_IDS)
    ),
}
MODELS = [*ARCHITECTURES, *OTHERS]


def make(name: str) -> hf.PreTrainedModel:
    if name in ARCHITECTURES:
        return make_model(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = OTHERS[name]().eval()
        for bias in (p for key, p in model.named_parameters() if key.endswith("lm_head.bias")):
            nn.init.normal_(bias)
        return model


@pytest.fixture
def portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_logits, "ROWS", 2 * ROWS)
    monkeypatch.setattr(label_logits, "_SHARE", 0)


def inputs_of(model: hf.PreTrainedModel) -> dict[str, Any]:
    ids = torch.randint(3, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    decoder = {"decoder_input_ids": ids.flip(0)} if model.config.is_encoder_decoder else {}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **decoder}


def logits(values: Tensor, places: slice) -> Tensor:
    return values.view(ROWS, -1, values.shape[-1])


def conversations() -> dict[str, Tensor]:
    ids = torch.randint(3, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    labels = ids[:, 1:].clone()
    labels[1, -6:] = NO_TOKEN
    positions = torch.arange(-LENGTH, -1).expand(ROWS, -1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "label_ids": labels, "label_positions": positions}


# --- they are those of a whole run ---------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_logits_in_portions_are_those_of_a_plain_forward(name: str, portions: None) -> None:
    model = make(name)
    inputs = inputs_of(model)
    seen: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda module, args, output: seen.append(len(output)))
    positions = torch.randint(-LENGTH, 0, (ROWS, 7), generator=torch.Generator().manual_seed(2))
    plain = model(**inputs).logits[torch.arange(ROWS).unsqueeze(1), positions]
    for _ in range(2):  # the first time one portion is compared
        seen.clear()
        torch.testing.assert_close(of_logits(model, inputs, positions, logits), plain, rtol=1e-4, atol=1e-5)
        assert max(seen) == 2 * ROWS
    assert seen == [6, 6, 6, 3]
    assert label_logits._replays_rightly[model]


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_what_comes_before_the_output_layer_runs_once(name: str, portions: None) -> None:
    model = make(name)
    inputs, positions = inputs_of(model), torch.arange(5).expand(ROWS, -1)
    of_logits(model, inputs, positions, logits)
    head = model.get_output_embeddings()
    calls: list[str] = []
    portions_made: list[int] = []
    for part, module in model.named_modules():
        if head not in module.modules():
            module.forward = counted(module.forward, part, calls)  # type: ignore[method-assign]
    model(**inputs)
    plain = sorted(calls)
    calls.clear()
    head.register_forward_pre_hook(lambda module, args: portions_made.append(1))
    of_logits(model, inputs, positions, logits)
    assert sorted(calls) == plain
    assert len(portions_made) == 3


@torch.no_grad()
def test_a_model_that_takes_another_path_is_watched_anew(portions: None) -> None:
    """With the encoder's outputs given the encoder is not called, and without them it must not run again and again."""
    model = make("t5")
    inputs, positions = inputs_of(model), torch.arange(5).expand(ROWS, -1)
    given = {**inputs, "encoder_outputs": model.get_encoder()(input_ids=inputs["input_ids"])}
    expected = of_logits(model, inputs, positions, logits)
    torch.testing.assert_close(of_logits(model, given, positions, logits), expected)
    calls: list[str] = []
    model.get_encoder().forward = counted(model.get_encoder().forward, "encoder", calls)
    for path, runs in ((given, 0), (inputs, 1)):
        calls.clear()
        torch.testing.assert_close(of_logits(model, path, positions, logits), expected)
        assert len(calls) == runs


def counted(forward: Callable[..., Any], part: str, calls: list[str]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        calls.append(part)
        return forward(*args, **kwargs)

    return run


class ChangesInPlace(hf.LlamaForCausalLM):
    """Scales what its body returned in place, so that to return it again is to scale it twice."""

    def forward(self, input_ids: Tensor, **kwargs: Any) -> Any:
        hidden = self.model(input_ids=input_ids).last_hidden_state
        return hf.modeling_outputs.CausalLMOutput(logits=self.lm_head(hidden.mul_(0.5)))


@torch.no_grad()
def test_a_model_that_cannot_be_taken_in_portions_is_taken_whole_and_said_so(portions: None) -> None:
    model = ChangesInPlace(hf.LlamaConfig(vocab_size=VOCABULARY, **_KV, **_SMALL, **_IDS)).eval()
    inputs = {"input_ids": inputs_of(model)["input_ids"]}
    positions = torch.arange(7).expand(ROWS, -1)
    with pytest.warns(ZoftWarning, match="made all at once"):
        got = of_logits(model, inputs, positions, logits)
    for values in (got, of_logits(model, inputs, positions, logits)):
        torch.testing.assert_close(values, model(**inputs).logits[:, :7])


# --- losses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "gemma2, capped"])
@torch.no_grad()
def test_losses_in_portions_are_those_of_whole_logits(name: str, portions: None) -> None:
    model, batch = make(name), conversations()
    values = model(input_ids=batch["input_ids"]).logits[:, :-1]
    used = batch["label_ids"] != NO_TOKEN
    want = nn.functional.cross_entropy(values.transpose(1, 2), batch["label_ids"].clamp_min(0), reduction="none") * used
    torch.testing.assert_close(conversation_losses(model, batch), want.sum(-1) / used.sum(-1), rtol=1e-4, atol=1e-5)
    losses, likeliest = token_scores(model, batch)
    torch.testing.assert_close(losses, want, rtol=1e-4, atol=1e-5)
    assert torch.equal(likeliest, ((values.argmax(-1) == batch["label_ids"]) & used).float())


@torch.no_grad()
def test_a_decoders_answers_are_scored_in_portions(portions: None) -> None:
    model, batch = make("t5"), conversations()
    options = batch["label_ids"].unsqueeze(1)
    asked = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "option_ids": options}
    got = answer_losses(model, asked)
    labels = options.squeeze(1).masked_fill(options.squeeze(1) == NO_TOKEN, -100)
    for row, loss in enumerate(got):
        want = model(input_ids=batch["input_ids"][[row]], labels=labels[[row]]).loss
        torch.testing.assert_close(loss, want, rtol=1e-4, atol=1e-5)


def test_a_gradient_is_taken_through_all_at_once(portions: None) -> None:
    model, batch = make("llama"), conversations()
    conversation_losses(model, batch).sum().backward()  # type: ignore[no-untyped-call]
    assert model not in label_logits._replays_rightly


# --- under placements ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2, capped"])
def test_stream_moves_the_output_layer_for_every_portion(name: str, portions: None) -> None:
    records = []
    for placement in ("stream", "snapshot"):
        model, batch = make(name), conversations()
        optimizer = zoft.ZOOptimizer(
            model, lr=1e-2, config=zoft.ZOConfig(method="mezo", placement=placement, zo_eps=1e-2)
        )

        def loss(model: nn.Module = model, batch: dict[str, Tensor] = batch) -> Tensor:
            return conversation_losses(model, batch).mean()

        records.append([float(optimizer.step(loss)) for _ in range(2)])
    assert records[0] == pytest.approx(records[1], rel=1e-5)


@pytest.mark.parametrize("method", ["grzo", "forward_grad"])
def test_a_step_in_portions_is_one_of_whole_logits(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = []
    for rows in (2 * ROWS, 10_000):
        monkeypatch.setattr(label_logits, "ROWS", rows)
        model, batch = make("llama"), conversations()
        shared = {"shared_vector": "example"} if method == "grzo" else {}
        optimizer = zoft.ZOOptimizer(model, lr=1e-2, config=zoft.ZOConfig(method=method, **shared))

        def loss(model: nn.Module = model, batch: dict[str, Tensor] = batch) -> Tensor:
            losses = conversation_losses(model, batch)
            return losses if method == "grzo" else losses.mean()

        optimizer.step(loss)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-5)


def test_points_side_by_side_pass_the_body_once_and_lose_nothing(portions: None) -> None:
    """Placement ``batched`` hands each point its rows of what the body returns, and portions repeat these."""
    records, rows = [], []
    for placement in ("snapshot", "batched"):
        model, batch = make("llama"), conversations()
        config = zoft.ZOConfig(method="fzoo", num_queries=3, include=("*norm*",), placement=placement)
        optimizer = zoft.ZOOptimizer(model, lr=1e-2, config=config)
        for step in range(2):  # the first one proves that both do as they should
            if step:
                block = next(m for m in model.modules() if type(m).__name__ == "LlamaDecoderLayer")
                block.register_forward_hook(lambda module, args, output: rows.append(len(output)))
            optimizer.step(lambda model=model, batch=batch: conversation_losses(model, batch).mean())  # type: ignore[misc]
        assert optimizer.last_record is not None
        records.append([optimizer.last_record.loss, *optimizer.last_record.scalars])
    assert rows == [ROWS] * 4 + [ROWS * 4]
    torch.testing.assert_close(records[0], records[1], rtol=1e-3, atol=1e-5)


# --- and they never stand whole ------------------------------------------------------------------------


def test_no_tensor_of_a_step_is_as_large_as_the_logits(portions: None) -> None:
    model = hf.LlamaForCausalLM(
        hf.LlamaConfig(vocab_size=5000, tie_word_embeddings=True, **_KV, **_SMALL, **_IDS)
    ).eval()
    batch, whole = conversations(), 4 * ROWS * (LENGTH - 1) * 5000
    optimizer = zoft.ZOOptimizer(model, lr=1e-3, config=zoft.ZOConfig(method="mezo", placement="snapshot"))
    with LiveTensors() as live:
        for _ in range(2):
            optimizer.step(lambda: conversation_losses(model, batch).mean())
    assert live.largest == 4 * 32 * 5000, "the output layer's matrix"
    assert live.largest < whole
    with LiveTensors() as live, torch.no_grad():
        logits_at(model, {"input_ids": batch["input_ids"]}, batch["label_positions"])
    assert live.largest == whole, "as it would be"
