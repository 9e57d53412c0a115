"""Evaluation: the same numbers whatever the batching, and nothing of the model or the process is changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from zoft.errors import DataError, NonFiniteLossError
from zoft.evaluation.options import evaluate_options
from zoft.tasks.encoding import EncodedPrompts, PromptEncoder
from zoft.tasks.prompted import PromptedTask
from zoft.tasks.scoring import option_scores

TASK = PromptedTask("{text} It was", ("terrible", "great"))


@pytest.fixture
def encoder(causal_tokenizer: PreTrainedTokenizerFast) -> PromptEncoder:
    return PromptEncoder(TASK, causal_tokenizer)


def test_batch_size_does_not_change_the_scores(llama: PreTrainedModel, encoder: PromptEncoder, rows: Any) -> None:
    data = encoder.encode(rows * 3)
    one = evaluate_options(llama, data, encoder, batch_size=1).scores
    four = evaluate_options(llama, data, encoder, batch_size=4).scores
    assert one["n"] == four["n"] == 9
    assert one["accuracy"] == four["accuracy"]
    assert one["loss"] == pytest.approx(four["loss"], abs=1e-5)


def test_report_equals_the_definition(llama: PreTrainedModel, encoder: PromptEncoder, rows: Any) -> None:
    data = encoder.encode(rows)
    got = evaluate_options(llama, data, encoder).scores
    with torch.no_grad():
        scores = torch.cat([option_scores(llama, encoder.collator()([example])) for example in data.examples])
    labels = torch.tensor([0, 1, 1])
    correct = (scores.argmax(1) == labels).double()
    assert got["accuracy"] == pytest.approx(correct.mean().item())
    assert got["loss"] == pytest.approx(torch.nn.functional.cross_entropy(scores, labels).item(), abs=1e-5)
    assert got["majority_share"] == pytest.approx(2 / 3)
    assert got["class_accuracy"] == pytest.approx([correct[0].item(), correct[1:].mean().item()])


def test_class_without_examples_has_no_accuracy(llama: PreTrainedModel, encoder: PromptEncoder, rows: Any) -> None:
    got = evaluate_options(llama, encoder.encode(rows[:1]), encoder).scores
    assert got["class_accuracy"][1] is None


def test_training_mode_and_random_state_are_left_alone(
    llama: PreTrainedModel, encoder: PromptEncoder, rows: Any
) -> None:
    llama.train()
    llama.model.layers[0].eval()  # a part that the user froze
    modes = [module.training for module in llama.modules()]
    state = torch.get_rng_state()
    evaluate_options(llama, encoder.encode(rows), encoder)
    assert [module.training for module in llama.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_empty_set_and_non_finite_model_are_refused(llama: PreTrainedModel, encoder: PromptEncoder, rows: Any) -> None:
    with pytest.raises(DataError, match="empty"):
        evaluate_options(llama, EncodedPrompts([], 0), encoder)
    with torch.no_grad():
        llama.model.norm.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match="nan over 3 examples"):
        evaluate_options(llama, encoder.encode(rows), encoder)
