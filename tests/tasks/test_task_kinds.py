"""Tasks with options of a row's own, and tasks that are answered in words: what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.architectures import tokenizer_for
from zoft.errors import ConfigError, DataError
from zoft.problems.prompted import prompted_problem
from zoft.tasks.answers import AnswerTask
from zoft.tasks.choices import ChoiceTask
from zoft.tasks.data import load_splits
from zoft.tasks.encoding import PromptEncoder
from zoft.tasks.prompted import PromptedTask


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either choices .* or choices_column"),
        ({"choices": ["{a}", "{b}"], "choices_column": "options"}, "give either choices .* or choices_column"),
        ({"choices": ["{a}"]}, "at least two templates"),
        ({"choices_column": "options", "label_column": None}, "either label_column or answers_column"),
        ({"choices_column": "options", "answers_column": "right"}, "either label_column or answers_column"),
        ({"choices": ["{a}", "{b}"], "label_column": None, "answers_column": "right"}, "goes with choices_column"),
        ({"choices": ["{a}", "{b}"], "labels": [1, 2, 3]}, "one value for each of the 2 choices"),
        ({"choices": ["{a}", "{b"]}, "literal braces twice"),
        ({"choices_column": "options", "template": "{text} [MASK]"}, "stands for one token"),
        ({"choices_column": "options", "template": "{text} {label}"}, "shows the answer"),
    ],
)
def test_unusable_choices_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _ = ChoiceTask(**{"template": "{text}", **arguments}).columns


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"template": "{question} {answers}"}, "shows the answer"),
        ({"template": "{question} [MASK]"}, "stands for one token"),
        ({"stop": ""}, "stop must be a text"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_unusable_answers_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AnswerTask(**{"template": "{question}", **arguments})


LISTED = ChoiceTask("{text}", choices_column="options")
NAMED = ChoiceTask("{text}", choices_column="options", label_column=None, answers_column="right")
PAIR = ChoiceTask("{text}", choices=("{a}", "not {a}"), labels=(1, 2))
SAME = ChoiceTask("{text}", choices=("{a}", "{b}"))
WORDS = AnswerTask("{text}")


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        (LISTED, {"options": ["a", "b"], "label": 2}, "a place in 2 options, from 0; got 2"),
        (LISTED, {"options": ["a", "b"], "label": -1}, "from 0; got -1"),
        (LISTED, {"options": ["a", "a"], "label": 0}, "holds an option twice"),
        (LISTED, {"options": ["a", " "], "label": 0}, "an option without text"),
        (LISTED, {"options": ["a", "b"], "right": 0}, "no column 'label'; .* label_column says which one holds"),
        (LISTED, {"options": [], "label": 0}, "a list of at least one text"),
        (LISTED, {"options": "a b", "label": 0}, "a list of at least one text"),
        (LISTED, {"option": ["a", "b"], "label": 0}, r"no column 'options'; .* Did you mean 'option'\?"),
        (NAMED, {"options": ["a", "b"], "right": ["c"]}, "none of the answers .* among the options"),
        (PAIR, {"a": "x", "label": 0}, "known labels are 1, 2"),
        (SAME, {"a": "x", "b": "x", "label": 0}, "choices make an option twice"),
        (SAME, {"a": "x", "b": " ", "label": 0}, "choices make an option without text"),
        (PAIR, {"label": 1}, "no column 'a'"),
        (WORDS, {"answers": []}, "a list of at least one text"),
        (WORDS, {"answers": [3]}, "a list of at least one text"),
        (WORDS, {"answers": ["", "x"]}, "begins with a text that is empty"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused(task: Any, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        task.columns.check({"text": "t", **row})


def test_the_first_accepted_answer_is_the_one_that_is_trained_on() -> None:
    row = {"text": "t", "options": ["a", "b", "c"], "right": ["c", "a", "elsewhere"]}
    assert NAMED.right(row) == (2, 0)
    encoded = PromptEncoder(ChoiceTask(**{**vars(NAMED), "trains_on": "answer"}), tokenizer_for("causal")).encode(
        [row], training=True
    )
    assert encoded[0]["options"] == (tuple(tokenizer_for("causal")(" c")["input_ids"]),)
    assert encoded[0]["label"] == 0


def test_choices_from_templates_are_filled_from_the_row() -> None:
    row = {"text": "t", "a": "x", "label": "2"}
    PAIR.columns.check(row)
    assert PAIR.options(row) == (" x", " not x") and PAIR.right(row) == (1,)


@pytest.mark.parametrize("task", [LISTED, WORDS])
def test_a_masked_model_is_refused_where_answers_have_several_words(task: Any) -> None:
    with pytest.raises(ConfigError, match="a masked language model needs"):
        PromptEncoder(task, tokenizer_for("masked"), kind="masked")


def test_a_masked_model_is_not_trained_on_one_answer_alone() -> None:
    task = PromptedTask("{text} It was [MASK] .", ("terrible", "great"), trains_on="answer")
    with pytest.raises(ConfigError, match="trained on its options"):
        PromptEncoder(task, tokenizer_for("masked"))


def test_the_place_of_the_right_option_is_no_text(tmp_path: Path) -> None:
    """A question whose options come in another order is the same question, and one without text is empty."""
    rows = [{"text": f"question {number}", "options": ["a", "b"], "label": number % 2} for number in range(6)]
    held_out = [{**rows[0], "options": ["b", "a"], "label": 1}, {"text": " ", "options": ["a", "b"], "label": 0}]
    for name, written in (("rows", rows), ("held_out", held_out)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, written)))
    splits = load_splits(
        LISTED.columns, train_file=str(tmp_path / "rows.jsonl"), eval_file=str(tmp_path / "held_out.jsonl")
    )
    encoder = PromptEncoder(LISTED, tokenizer_for("causal"))
    assert len(splits.train) == 5, "the one that is held out in another order is left out"
    report = prompted_problem(encoder, splits).data
    assert report is not None
    assert {finding.kind for finding in report.findings if finding.severity == "grave"} == {"leak", "empty"}
    assert report.splits[0].words is not None and report.splits[0].words.median == 2
