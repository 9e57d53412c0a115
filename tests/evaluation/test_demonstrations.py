"""In-context prompts: solved rows as they are written, as many as fit, and the row's own prompt unharmed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.tasks.architectures import make_model, tokenizer_for
from zoft.errors import ConfigError
from zoft.evaluation.answers import evaluate_answers
from zoft.evaluation.demonstrations import context_window, draw, encode_in_context
from zoft.evaluation.options import evaluate_options
from zoft.tasks.answers import AnswerTask
from zoft.tasks.choices import ChoiceTask
from zoft.tasks.encoding import PromptEncoder
from zoft.tasks.prompted import PromptedTask
from zoft.tasks.rows import Columns
from zoft.tasks.task import ModelKind, Task

FILMS = PromptedTask("Review: {text}\nIt was", ("terrible", "great"))
MASKED = PromptedTask("{text} It was [MASK] .", ("terrible", "great"))
CAUSES = ChoiceTask("{premise} because", choices=("{first}", "{second}"))
QUESTIONS = AnswerTask("Question: {question}\nAnswer:", max_new_tokens=6)

ROWS = [{"text": "a long film", "label": 0}, {"text": "a <mask> film", "label": 1}]
REASONS = [{"premise": "He ran", "first": "it rained", "second": "he sat", "label": 0}]
ASKED = [{"question": "Who?", "answers": ["Ada", "Lovelace"]}]

CASES: dict[str, tuple[ModelKind, Task, list[dict[str, Any]], str]] = {
    "causal": (
        "causal",
        FILMS,
        ROWS,
        "Review: a long film\nIt was terrible\n\nReview: a <mask> film\nIt was great\n\nReview: a long film\nIt was",
    ),
    # A mask in the data is none, and that of a solved row is gone.
    "masked": (
        "masked",
        MASKED,
        ROWS,
        "a long film It was terrible .\n\na   film It was great .\n\na long film It was <mask> .",
    ),
    "encoder and decoder": (
        "seq2seq",
        FILMS,
        ROWS[:1],
        "Review: a long film\nIt was terrible\n\nReview: a long film\nIt was",
    ),
    "a row's own options": ("causal", CAUSES, REASONS, "He ran because it rained\n\nHe ran because"),
    "answers": ("causal", QUESTIONS, ASKED, "Question: Who?\nAnswer: Ada\n\nQuestion: Who?\nAnswer:"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_prompt_is_the_solved_rows_and_the_row(case: str) -> None:
    kind, task, rows, want = CASES[case]
    encoder = PromptEncoder(task, tokenizer_for(kind), 128, kind=kind)
    context = encode_in_context(encoder, rows[:1], rows, 512)
    alone = encoder.encode(rows[:1])
    assert context.kept == (len(rows),)
    assert context.prompts[0]["input_ids"] == tokenizer_for(kind)(want)["input_ids"]
    assert context.prompts[0]["options"] == alone[0]["options"] and context.prompts[0]["label"] == alone[0]["label"]
    if kind == "masked":
        mask = tokenizer_for(kind).mask_token_id
        assert context.prompts[0]["input_ids"][context.prompts[0]["position"]] == mask


def test_demonstrations_are_as_many_of_each_class_and_the_seed_s() -> None:
    columns = Columns(text=("text",), label="label", labels=("0", "1", "2"))
    rows = [{"text": str(number), "label": 0 if number < 80 else 1 + number % 2} for number in range(100)]
    drawn = draw(rows, columns, 9, seed=3)
    assert Counter(row["label"] for row in drawn) == {0: 3, 1: 3, 2: 3}
    assert draw(rows, columns, 9, seed=3) == drawn != draw(rows, columns, 9, seed=4)
    labels = [[row["label"] for row in draw(rows, columns, 9, seed)] for seed in range(20)]
    assert any(order != labels[0] for order in labels), "the order of the classes is not fixed"
    # Of a rare class there are only so many, and never more rows than there are.
    assert Counter(row["label"] for row in draw(rows, columns, 60, seed=0)) == {0: 40, 1: 10, 2: 10}
    assert sorted(int(row["text"]) for row in draw(rows, columns, 500, seed=0)) == list(range(100))


def test_without_classes_rows_are_drawn_as_they_come() -> None:
    rows = [{"question": str(number), "answers": ["x"]} for number in range(50)]
    drawn = draw(rows, QUESTIONS.columns, 7, seed=0)
    assert len({row["question"] for row in drawn}) == 7
    assert drawn != rows[:7]


@pytest.mark.parametrize("kind", ["causal", "masked", "seq2seq"])
def test_as_many_demonstrations_stay_as_fit_and_the_row_is_whole(kind: ModelKind) -> None:
    words = ("rather terrible indeed", "great") if kind != "masked" else ("terrible", "great")
    task = PromptedTask(MASKED.template if kind == "masked" else "{text} It was", words)
    tokenizer = tokenizer_for(kind)
    encoder = PromptEncoder(task, tokenizer, 40, kind=kind)
    shown = [{"text": f"film {number} " + "and so on " * (number % 4), "label": number % 2} for number in range(12)]
    rows = [{"text": "a film " * length, "label": 0} for length in (1, 4, 9)]
    limit = 150
    context = encode_in_context(encoder, rows, shown, limit)
    assert len(set(context.kept)) > 1 and 0 < min(context.kept) and max(context.kept) < len(shown)
    follows = max(map(len, encoder.encode(rows)[0]["options"])) - 1 if kind == "causal" else 0
    for index, row in enumerate(rows):
        kept = context.kept[index]
        with_one_more = "\n\n".join([*context.demonstrations[-kept - 1 :], encoder.prompt_text(row)])
        assert len(context.prompts[index]["input_ids"]) + follows <= limit
        assert len(tokenizer(with_one_more)["input_ids"]) + follows > limit
        text = tokenizer.decode(context.prompts[index]["input_ids"])
        assert context.demonstrations[-1] in text and context.demonstrations[-kept - 1] not in text
        assert encoder.prompt_text(row).split("<mask>")[0] in text


def test_an_answer_has_room_behind_the_prompt() -> None:
    encoder = PromptEncoder(QUESTIONS, tokenizer_for("causal"), 40)
    context = encode_in_context(encoder, ASKED, ASKED * 40, 100)
    length = len(context.prompts[0]["input_ids"])
    assert 100 - 6 - length >= 0 and context.kept[0] < 40
    found = evaluate_answers(make_model("llama"), context.prompts, encoder)
    assert found.scores["n"] == 1 and found.predictions[0].expected == ("Ada", "Lovelace")


@pytest.mark.parametrize("name", ["llama", "gpt2", "roberta", "t5"])
def test_a_model_reads_no_more_than_its_window(name: str) -> None:
    kind: ModelKind = {"roberta": "masked", "t5": "seq2seq"}.get(name, "causal")  # type: ignore[assignment]
    encoder = PromptEncoder(MASKED if kind == "masked" else FILMS, tokenizer_for(kind), 64, kind=kind)
    model = make_model(name)
    length = context_window(model, encoder)
    assert length == 512
    rows = [{"text": "film " * 9, "label": number % 2} for number in range(80)]
    context = encode_in_context(encoder, rows[:2], rows, length)
    assert 400 < len(context.prompts[0]["input_ids"]) <= 512 and context.kept[0] < 80
    assert evaluate_options(model, context.prompts, encoder).scores["n"] == 2


def test_a_row_longer_than_the_window_is_refused() -> None:
    encoder = PromptEncoder(FILMS, tokenizer_for("causal"), 128)
    with pytest.raises(ConfigError, match=r"128 tokens, and the model reads 100 \(context_length\); lower max_length"):
        encode_in_context(encoder, ROWS, ROWS, 100)
