"""Surface form competition: the difference of two log-probabilities, each of them taken plainly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tests.tasks.architectures import make_model, tokenizer_for
from zoft.errors import ConfigError
from zoft.evaluation.calibration import calibrated, domain_encoder, domain_scores, without_columns
from zoft.evaluation.options import scores_of_options
from zoft.tasks.choices import ChoiceTask
from zoft.tasks.encoding import PromptEncoder
from zoft.tasks.library import task_spec
from zoft.tasks.prompted import PromptedTask
from zoft.tasks.task import Task

FILMS = [{"text": "a long film", "label": 0}, {"text": "a film to see and to see again", "label": 1}]
COPA = [
    {"premise": "He ran", "conjunction": "because", "choices": ["it rained", "he sat"], "label": 0},
    {"premise": "It rained all day", "conjunction": "so", "choices": ["it was dry", "so", "we left"], "label": 2},
]
CASES: dict[str, tuple[Task, list[dict[str, Any]], str | None, list[str]]] = {
    "one token": (PromptedTask("Review: {text}\nIt was", ("terrible", "great")), FILMS, None, ["Review: \nIt was"] * 2),
    "several tokens": (
        PromptedTask("{text} It was", ("rather terrible indeed", "great")),
        FILMS,
        "It was",
        ["It was"] * 2,
    ),
    "a row's own options": (
        ChoiceTask("{premise} {conjunction}", choices_column="choices"),
        COPA,
        task_spec("copa").sfc_template,
        ["because", "so"],
    ),
}


def log_probability(model: PreTrainedModel, prompt: str, option: str) -> float:
    """The sum over an option's tokens, one unpadded forward."""
    tokenizer = tokenizer_for("causal")
    before, all_of = tokenizer(prompt)["input_ids"], tokenizer(prompt + option)["input_ids"]
    assert all_of[: len(before)] == before
    with torch.no_grad():
        logs = model(torch.tensor([all_of])).logits[0].log_softmax(-1)
    return sum(logs[place - 1, all_of[place]].item() for place in range(len(before), len(all_of)))


@pytest.mark.parametrize("case", CASES)
def test_calibrated_scores_equal_the_definition(case: str) -> None:
    task, rows, template, alone = CASES[case]
    model = make_model("llama")
    encoder = PromptEncoder(task, tokenizer_for("causal"), 64)
    prompts, domain = encoder.encode(rows), domain_encoder(encoder, template).encode(rows)
    plain = scores_of_options(model, prompts, encoder)
    found = calibrated(plain, prompts.examples, domain_scores(model, domain, encoder), domain.examples)
    for row, without_row, scores in zip(rows, alone, found, strict=True):
        want = [
            log_probability(model, encoder.prompt_text(row), option) - log_probability(model, without_row, option)
            for option in task.options(row)
        ]
        # One-token options are scored by logits: their differences are what counts.
        got = scores - scores[0] + want[0]
        assert got.tolist() == pytest.approx(want, abs=1e-4)
        if case != "one token":
            assert scores.tolist() == pytest.approx(want, abs=1e-4)


def test_a_row_that_says_nothing_makes_no_option_likelier() -> None:
    encoder = PromptEncoder(PromptedTask("{text} It was [MASK] .", ("terrible", "great")), tokenizer_for("masked"), 64)
    rows = [{"text": "", "label": 0}]
    prompts, domain = encoder.encode(rows), domain_encoder(encoder, " It was [MASK] .").encode(rows)
    model = make_model("roberta")
    plain = scores_of_options(model, prompts, encoder)
    (found,) = calibrated(plain, prompts.examples, domain_scores(model, domain, encoder), domain.examples)
    assert found.tolist() == [0, 0]


def test_equal_prompts_are_read_once() -> None:
    encoder = PromptEncoder(PromptedTask("{text} It was", ("terrible", "great")), tokenizer_for("causal"), 64)
    model, read = make_model("llama"), []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    domain = domain_encoder(encoder).encode(FILMS * 5)
    scores = domain_scores(model, domain, encoder)
    assert read == [1] and len(scores) == 10


@pytest.mark.parametrize(
    ("template", "want"),
    [("{text} It was", "It was"), ("A {{b}} {text}?\n{more}", "A {{b}} ?\n"), ("{text}{more}", "")],
)
def test_without_columns_a_template_is_what_it_says_itself(template: str, want: str) -> None:
    assert without_columns(template) == want


def test_what_cannot_be_calibrated_by_is_refused() -> None:
    encoder = PromptEncoder(PromptedTask("{text}", ("terrible", "great")), tokenizer_for("causal"), 64)
    with pytest.raises(ConfigError, match=r"nothing is left of the prompt.*sfc_template"):
        domain_scores(make_model("llama"), domain_encoder(encoder).encode(FILMS), encoder)
    with pytest.raises(ConfigError, match="sfc_template: there is no column 'sentence'; found: 'text', 'label'"):
        domain_encoder(encoder, "{sentence} so").encode(FILMS)
    masked = PromptEncoder(PromptedTask("{text} [MASK]", ("terrible", "great")), tokenizer_for("masked"), 64)
    with pytest.raises(ConfigError, match=r"needs \[MASK\] once"):
        domain_encoder(masked, "It was")
