"""Option scores against the obvious way: each row alone, unpadded, all positions through the output layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PreTrainedModel, PreTrainedTokenizerFast

from zoft.errors import ConfigError
from zoft.tasks.encoding import PromptEncoder
from zoft.tasks.prompted import PromptedTask
from zoft.tasks.scoring import option_losses, option_scores

TEMPLATE = "{text}\nOverall, the movie was"
SINGLE = PromptedTask(TEMPLATE, ("terrible", "great"))
SEVERAL = PromptedTask(TEMPLATE, ("rather terrible indeed", "great", "not so good"))
MASKED = PromptedTask("{text} It was [MASK] .", ("terrible", "great"))


def plain_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, task: PromptedTask, rows: list[dict[str, Any]]
) -> Tensor:
    """Mean log-probability of each option, [B, O], one unpadded forward a row and option."""
    scores = []
    for row in rows:
        prompt = tokenizer(task.template.format(**row))["input_ids"]
        for word in task.label_words:
            option = tokenizer(" " + word)["input_ids"]
            logits = model(input_ids=torch.tensor([prompt + option])).logits[0].log_softmax(-1)
            steps = [logits[len(prompt) - 1 + index, token] for index, token in enumerate(option)]
            scores.append(torch.stack(steps).mean())
    return torch.stack(scores).view(len(rows), -1)


def batch_of(tokenizer: PreTrainedTokenizerFast, task: PromptedTask, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    encoder = PromptEncoder(task, tokenizer)
    encoded = encoder.encode(rows)
    return encoder.collator()([encoded[index] for index in range(len(encoded))])


@torch.no_grad()
@pytest.mark.parametrize("task", [SINGLE, SEVERAL], ids=["one-token options", "longer options"])
def test_padded_batch_scores_equal_each_row_alone(
    task: PromptedTask, causal_model: PreTrainedModel, causal_tokenizer: PreTrainedTokenizerFast, rows: Any
) -> None:
    batch = batch_of(causal_tokenizer, task, rows)
    assert (batch["attention_mask"] == 0).any(), "the test needs padding"
    expected = plain_scores(causal_model, causal_tokenizer, task, rows)
    scores = option_scores(causal_model, batch)
    torch.testing.assert_close(scores.log_softmax(-1), expected.log_softmax(-1), atol=2e-5, rtol=1e-5)
    if task is SEVERAL:
        torch.testing.assert_close(scores, expected, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_masked_scores_equal_each_row_alone(
    masked_model: PreTrainedModel, masked_tokenizer: PreTrainedTokenizerFast, rows: Any
) -> None:
    rows[0]["text"] = "a [MASK] or a <mask> in the data is not predicted"
    batch = batch_of(masked_tokenizer, MASKED, rows)
    assert "position_ids" not in batch
    rows[0]["text"] = rows[0]["text"].replace("<mask>", " ")
    for index, row in enumerate(rows):
        text = f"{row['text']} It was <mask> ."
        ids = masked_tokenizer(text)["input_ids"]
        logits = masked_model(input_ids=torch.tensor([ids])).logits[0, ids.index(masked_tokenizer.mask_token_id)]
        expected = logits[[masked_tokenizer(" " + word)["input_ids"][1] for word in MASKED.label_words]]
        torch.testing.assert_close(option_scores(masked_model, batch)[index], expected, atol=2e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("task", [SINGLE, SEVERAL], ids=["one-token options", "longer options"])
def test_only_label_positions_reach_the_output_layer_as_one_contiguous_matrix(
    task: PromptedTask,
    llama: PreTrainedModel,
    causal_tokenizer: PreTrainedTokenizerFast,
    rows: Any,
) -> None:
    seen: list[Tensor] = []
    batch = batch_of(causal_tokenizer, task, rows)
    handle = llama.lm_head.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    option_scores(llama, batch)
    handle.remove()
    assert seen[0].is_contiguous()
    assert seen[0].shape == (batch["option_positions"].numel(), 32)


def test_loss_is_fp32_cross_entropy_and_differentiable(
    llama: PreTrainedModel, causal_tokenizer: PreTrainedTokenizerFast, rows: Any
) -> None:
    batch = batch_of(causal_tokenizer, SINGLE, rows)
    loss = option_losses(llama.to(torch.bfloat16), batch).mean()
    assert loss.dtype == torch.float32
    expected = nn.functional.cross_entropy(option_scores(llama, batch), batch["labels"])
    assert torch.equal(loss, expected)
    loss.backward()
    assert llama.lm_head.weight.grad is not None


@torch.no_grad()
def test_batch_is_not_changed_and_no_hook_is_left(
    causal_model: PreTrainedModel, causal_tokenizer: PreTrainedTokenizerFast, rows: Any
) -> None:
    batch = batch_of(causal_tokenizer, SEVERAL, rows)
    before = {name: tensor.clone() for name, tensor in batch.items()}
    option_scores(causal_model, batch)
    assert batch.keys() == before.keys()
    assert all(torch.equal(batch[name], before[name]) for name in batch)
    assert not causal_model.get_output_embeddings()._forward_pre_hooks


def test_hook_is_removed_when_the_forward_fails(
    llama: PreTrainedModel, causal_tokenizer: PreTrainedTokenizerFast, rows: Any
) -> None:
    batch = batch_of(causal_tokenizer, SINGLE, rows)
    with pytest.raises(IndexError):
        option_scores(llama, {**batch, "input_ids": batch["input_ids"] + 10_000})
    assert not llama.lm_head._forward_pre_hooks


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # inside PEFT
@torch.no_grad()
def test_peft_wrapped_model_scores_equal_the_bare_model(
    llama: PreTrainedModel, causal_tokenizer: PreTrainedTokenizerFast, rows: Any
) -> None:
    peft = pytest.importorskip("peft")
    batch = batch_of(causal_tokenizer, SINGLE, rows)
    expected = option_scores(llama, batch)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(llama, config).eval()  # LoRA starts as the identity
    torch.testing.assert_close(option_scores(wrapped, batch), expected)


def test_model_without_language_head_is_refused(
    masked_tokenizer: PreTrainedTokenizerFast, causal_tokenizer: PreTrainedTokenizerFast, rows: Any
) -> None:
    config = BertConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    batch = batch_of(masked_tokenizer, MASKED, rows)
    with pytest.raises(ConfigError, match="no language-model head"):
        option_scores(BertModel(config), batch)
    with pytest.raises(ConfigError, match="expected a language model"):
        option_scores(nn.Linear(2, 2), batch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"template": "no column"}, "names no column"),
        ({"template": "{text"}, "literal braces twice"),
        ({"template": "{}"}, "empty name"),
        ({"template": "{text:>9}"}, "or a format"),
        ({"template": "{text} {label}"}, "shows the answer"),
        ({"template": "{text} [MASK] [MASK]"}, "once"),
        ({"label_words": ["great"]}, "at least two"),
        ({"label_words": ["great", " great "]}, "must differ"),
        ({"label_words": ["great", ""]}, "must not be empty"),
        ({"labels": [0, 1, 2]}, "one value for each of the 2"),
        ({"labels": [1, "1"]}, "labels must differ"),
    ],
)
def test_unusable_task_is_refused(arguments: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"template": TEMPLATE, "label_words": ["terrible", "great"], **arguments}
    with pytest.raises(ConfigError, match=message):
        PromptedTask(**settings)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{text} It was", " great"),
        ("{text}\nYes or No?\n", "great"),
        ("{text} It was [MASK] .", " great"),
        ("[MASK] : {text}", "great"),
    ],
)
def test_label_word_is_spaced_as_the_template_calls_for(template: str, expected: str) -> None:
    assert PromptedTask(template, ("terrible", "great")).spaced_words[1] == expected
