"""Option scores of adapted models against a plain forward of the same model, each row alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from zoft.tasks.encoding import PromptEncoder
from zoft.tasks.prompted import PromptedTask
from zoft.tasks.scoring import option_scores

TEMPLATE = "{text}\nOverall, the movie was"
SINGLE = PromptedTask(TEMPLATE, ("terrible", "great"))
SEVERAL = PromptedTask(TEMPLATE, ("rather terrible indeed", "great", "not so good"))
MASKED = PromptedTask("{text} It was [MASK] .", ("terrible", "great"))
KINDS = {"prefix": PrefixTuningConfig, "prompt": PromptTuningConfig}


def adapted(base: PreTrainedModel, kind: str, task: str) -> PeftModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return get_peft_model(base, KINDS[kind](num_virtual_tokens=3, task_type=task)).eval()


def batch_of(tokenizer: PreTrainedTokenizerFast, task: PromptedTask, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    encoder = PromptEncoder(task, tokenizer)
    encoded = encoder.encode(rows)
    return encoder.collator()([encoded[index] for index in range(len(encoded))])


def alone(
    model: nn.Module, tokenizer: PreTrainedTokenizerFast, task: PromptedTask, rows: list[dict[str, Any]]
) -> Tensor:
    """Mean log-probability of each option, [B, O], one unpadded forward a row and option."""
    scores = []
    for row in rows:
        prompt = tokenizer(task.template.format(**row))["input_ids"]
        for word in task.label_words:
            option = tokenizer(" " + word)["input_ids"]
            ids = torch.tensor([prompt + option])
            # A prompt's logits begin with those of the virtual tokens, so places are counted from the end.
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].log_softmax(-1)
            steps = [logits[index - len(option) - 1, token] for index, token in enumerate(option)]
            scores.append(torch.stack(steps).mean())
    return torch.stack(scores).view(len(rows), -1)


@torch.no_grad()
@pytest.mark.parametrize("task", [SINGLE, SEVERAL], ids=["one-token options", "longer options"])
@pytest.mark.parametrize("kind", KINDS)
def test_virtual_tokens_are_seen_alike_in_a_padded_batch_and_alone(
    kind: str, task: PromptedTask, causal_model: PreTrainedModel, causal_tokenizer: PreTrainedTokenizerFast, rows: Any
) -> None:
    batch = batch_of(causal_tokenizer, task, rows)
    assert (batch["attention_mask"] == 0).any(), "the test needs padding"
    bare = option_scores(causal_model, batch).log_softmax(-1)
    model = adapted(causal_model, kind, "CAUSAL_LM")
    scores = option_scores(model, batch).log_softmax(-1)
    torch.testing.assert_close(scores, alone(model, causal_tokenizer, task, rows).log_softmax(-1), atol=2e-5, rtol=1e-5)
    assert (scores - bare).abs().max() > 1e-3, "the virtual tokens matter"


@torch.no_grad()
def test_a_prompt_before_a_masked_model_is_seen_alike_in_a_padded_batch_and_alone(
    masked_model: PreTrainedModel, masked_tokenizer: PreTrainedTokenizerFast, rows: Any
) -> None:
    batch = batch_of(masked_tokenizer, MASKED, rows)
    bare = option_scores(masked_model, batch)
    model = adapted(masked_model, "prompt", "FEATURE_EXTRACTION")
    scores = option_scores(model, batch)
    assert (scores - bare).abs().max() > 1e-3
    for index, row in enumerate(rows):
        ids = masked_tokenizer(f"{row['text']} It was <mask> .")["input_ids"]
        logits = model(input_ids=torch.tensor([ids])).logits[0, 3 + ids.index(masked_tokenizer.mask_token_id)]
        expected = logits[[masked_tokenizer(" " + word)["input_ids"][1] for word in MASKED.label_words]]
        torch.testing.assert_close(scores[index], expected, atol=2e-5, rtol=1e-5)
