"""What is wrong with a run's rows is found, counted and named by line; what is right stays unsaid."""

from __future__ import annotations

import json
import random
import re
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from zoft.errors import DataError, ZoftWarning
from zoft.tasks.files import load_rows
from zoft.tasks.hygiene import DataReport, TokenLengths, as_text, inspect_data, judge
from zoft.tasks.places import Place, Row

WORDS = [f"w{number}" for number in range(500)]


def rows(source: str, texts: list[str], labels: list[int] | None = None) -> list[Row]:
    """Rows of a file with a line each; labels alternate by default."""
    return [
        Row({"text": text, "label": index % 2 if labels is None else labels[index]}, Place(source, "line", index + 1))
        for index, text in enumerate(texts)
    ]


def clean(count: int, seed: int = 0, length: int = 20) -> list[str]:
    """Texts that have nothing to do with each other."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=length)) for _ in range(count)]


def inspect(**splits: list[Row]) -> DataReport:
    return inspect_data(splits, lambda row: [row["text"]], lambda row: str(row["label"]), labels=("0", "1"))  # type: ignore[arg-type]


def found(report: DataReport) -> dict[str, int]:
    assert len({finding.kind for finding in report.findings}) == len(report.findings)
    return {finding.kind: finding.count for finding in report.findings}


def lines(report: DataReport, kind: str) -> list[tuple[int, ...]]:
    (finding,) = (finding for finding in report.findings if finding.kind == kind)
    return [tuple(place.number for place in places) for places in finding.rows]


def test_of_clean_rows_only_the_figures_are_shown() -> None:
    report = inspect(train=rows("a", clean(40)), dev=[], evaluation=rows("b", clean(10, seed=1)))
    assert report.findings == ()
    assert as_text(report).splitlines() == [
        "training  0: 50.0%, 1: 50.0%  words: 20 (median), 20 (longest)",
        "held-out  0: 50.0%, 1: 50.0%  words: 20 (median), 20 (longest)",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judge(report, strict=True)


def test_a_sorted_file_is_no_trouble() -> None:
    assert inspect(train=rows("a", clean(40), [0] * 20 + [1] * 20)).findings == ()


def test_repeated_texts_are_leaks_across_splits_and_duplicates_within_one() -> None:
    held_out, texts = clean(6, seed=1), clean(10)
    texts[3], texts[7], texts[8] = "  " + held_out[4].upper(), texts[2] + "\n", texts[2]
    report = inspect(train=rows("a", texts), evaluation=rows("b", held_out))
    assert found(report) == {"leak": 1, "duplicate": 2, "conflict": 2}
    assert lines(report, "leak") == [(4, 5)] and lines(report, "duplicate") == [(8, 3), (9, 3)]
    assert "1 training row repeats a held-out row: a = b, lines 4 = 5" in warned(report)
    assert "2 training rows repeat an earlier one: a, lines 8 = 3, 9 = 3" in as_text(report)


def test_development_rows_leak_into_held_out_ones_and_training_rows_into_both() -> None:
    held_out = clean(4, seed=1)
    report = inspect(
        train=rows("a", [*clean(6), held_out[0]], [0, 1, 0, 1, 0, 1, 0]),
        dev=rows("b", [*clean(3, seed=2), held_out[0]], [0, 1, 1, 0]),
        evaluation=rows("c", held_out),
    )
    assert [finding.message for finding in report.findings] == [
        "1 training row repeats a held-out row",
        "1 training row repeats a development row",
        "1 development row repeats a held-out row",
    ]


def test_rows_that_training_leaves_out_are_leaks_too() -> None:
    train, evaluation = rows("a", clean(6)), rows("b", clean(6, seed=1))
    report = inspect_data(
        {"train": train[1:], "evaluation": evaluation},
        lambda row: [row["text"]],
        lambda row: None,
        left_out={"evaluation": [(train[0], evaluation[3])], "dev": []},
    )
    assert found(report) == {"leak": 1} and lines(report, "leak") == [(1, 4)]
    assert report.findings[0].message == "1 training row repeats a held-out row (left out of training)"


def test_a_row_that_is_left_out_may_contradict_its_twin() -> None:
    train, evaluation = rows("a", clean(6), [0, 1, 0, 1, 0, 1]), rows("b", ["one", "two"])
    report = inspect_data(
        {"train": train, "evaluation": evaluation[:1]},
        lambda row: [row["text"]],
        lambda row: str(row["label"]),
        left_out={"evaluation": [(rows("c", ["Two"], [0])[0], evaluation[1])]},
    )
    assert found(report) == {"leak": 1, "conflict": 1}


def test_nearly_repeated_texts_are_found_across_and_within_splits() -> None:
    held_out, texts = clean(6, seed=1), clean(10)
    texts[3], texts[7] = held_out[4] + " indeed", "indeed " + texts[2]
    report = inspect(train=rows("a", texts), evaluation=rows("b", held_out))
    assert found(report) == {"near-leak": 1, "near-duplicate": 1}
    assert lines(report, "near-leak") == [(4, 5)] and lines(report, "near-duplicate") == [(8, 3)]


def test_short_texts_of_few_words_are_no_near_duplicates() -> None:
    texts = ["great film", "great movie", "a great film", "the great film", "bad film", "bad movie"]
    assert inspect(train=rows("a", texts)).findings == ()


def test_one_text_with_two_labels_is_a_conflict() -> None:
    report = inspect(train=rows("a", ["one", "two", "three", "two"], [0, 1, 0, 0]), evaluation=rows("b", ["six"], [0]))
    assert found(report) == {"conflict": 1, "duplicate": 1} and lines(report, "conflict") == [(2, 4)]
    assert found(inspect(train=rows("a", ["one", "two", "two"], [0, 1, 1]))) == {"duplicate": 1}


def test_rows_without_text_are_named() -> None:
    report = inspect(train=rows("a", ["one", "", "three", " \n", "\u200b\u00a0", "six"]))
    assert found(report) == {"empty": 3} and lines(report, "empty") == [(2,), (4,), (5,)]
    assert "3 training rows have no text: a, lines 2, 4, 5" in warned(report)


def test_labels_of_one_class_or_nearly_are_told() -> None:
    assert found(inspect(train=rows("a", clean(9), [1] * 9))) == {"constant-label": 9, "untrained-label": 1}
    assert found(inspect(train=rows("a", clean(100), [1] * 96 + [0] * 4))) == {"lopsided-labels": 96}
    assert found(inspect(train=rows("a", clean(100), [1] * 95 + [0] * 5))) == {}


def test_a_label_that_is_held_out_only_is_told() -> None:
    report = inspect(train=rows("a", clean(5), [1] * 5), evaluation=rows("b", clean(4, seed=1), [0, 1, 0, 1]))
    assert found(report) == {"constant-label": 5, "untrained-label": 1}
    assert "no training row has the label 0, which 2 other rows have" in warned(report)


def test_cut_rows_are_named_the_longest_first() -> None:
    report = inspect_data(
        {"train": rows("a", clean(4))},
        lambda row: [row["text"]],
        lambda row: None,
        tokens={"train": TokenLengths(full=[30, 65, 64, 90], kept=[30, 63, 64, 64])},
    )
    assert found(report) == {"cut": 2} and lines(report, "cut") == [(4,), (2,)]
    assert "tokens: 64 (median), 90 (longest)  50.0% cut" in as_text(report)
    assert "2 training rows (50.0%) lose some of their text, the longest first: a, lines 4, 2" in as_text(report)
    judge(report, strict=True)


def warned(report: DataReport) -> str:
    with pytest.warns(ZoftWarning) as caught:
        judge(report)
    assert len(caught) == 1, "once, however much was found"
    return str(caught[0].message)


def test_strict_data_refuses_what_spoils_scores_and_not_what_may_be_meant() -> None:
    shared = clean(1, seed=1)
    leaking = {"train": rows("a", [*clean(3), *shared], [0, 1, 0, 0]), "evaluation": rows("b", shared, [0])}
    nearly = {"train": rows("a", [*clean(3), "w1 " + shared[0]]), "evaluation": rows("b", shared)}
    for spoiled in (leaking, nearly, {"train": rows("a", ["", "b"])}, {"train": rows("a", ["b", "b"])}):
        report = inspect(**spoiled)
        with pytest.raises(DataError, match=r"^strict_data: 1 .*: .*lines? \d"):
            judge(report, strict=True)
        assert re.search(r"--strict_data refuses (this|the first 1)$", warned(report))
    one_sided = inspect(train=rows("a", clean(5), [1] * 5))
    with pytest.warns(ZoftWarning, match=r"all 5 training rows have the label 1; no training row has the label 0$"):
        judge(one_sided, strict=True)


def test_many_rows_are_counted_and_a_few_are_named() -> None:
    report = inspect(train=rows("a", ["same"] * 300, [1] * 300))
    (finding,) = (finding for finding in report.findings if finding.kind == "duplicate")
    assert finding.count == 299 and len(finding.rows) == 100
    assert as_text(report).endswith("lines 2 = 1, 3 = 1, 4 = 1, 5 = 1, 6 = 1 and 294 more")


def test_places_in_different_files_are_spelt_out() -> None:
    train = [*rows("a", ["one"]), *rows("b", ["two", "one"]), Row({"text": "two", "label": 1}, Place("c", "row", 7))]
    assert "b: line 2 = a: line 1; c: row 7 = b: line 1" in as_text(inspect(train=train))


def test_the_json_holds_figures_and_places(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,label\n"one\nand more",0\n\ntwo,1\nTwo,1\n', encoding="utf-8")
    loaded: dict[str, Any] = json.loads(json.dumps(asdict(inspect(train=load_rows(str(path))))))
    (split,) = loaded["splits"]
    assert split["name"] == "train" and split["rows"] == 3 and split["classes"] == {"0": 1, "1": 2}
    (finding,) = loaded["findings"]
    place = {"source": str(path), "unit": "line"}
    assert finding["kind"] == "duplicate" and finding["rows"] == [[{**place, "number": 6}, {**place, "number": 5}]]


def test_many_classes_are_summed_up() -> None:
    report = inspect_data(
        {"train": rows("a", clean(20), [*range(10), *range(10)])},
        lambda row: [row["text"]],
        lambda row: str(row["label"]),
    )
    assert "10 classes of 10.0% to 10.0%" in as_text(report)


def test_rows_stay_as_they_are() -> None:
    train = rows("a", ["One ", "one"])
    before = [dict(row) for row in train]
    inspect(train=train)
    assert train == before and [row.place.number for row in train] == [1, 2]
