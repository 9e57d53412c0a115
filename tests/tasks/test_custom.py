"""Tasks from YAML files: what they become, and what is said of a file that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from zoft.errors import ConfigError
from zoft.tasks.answers import AnswerTask
from zoft.tasks.choices import ChoiceTask
from zoft.tasks.custom import read_task
from zoft.tasks.prompted import PromptedTask
from zoft.tasks.spec import TaskSpec

Read = Callable[[str], TaskSpec]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(text: str) -> TaskSpec:
        path = tmp_path / "task.yaml"
        path.write_text(text)
        return read_task(path)

    return read


def test_label_words_make_a_task_of_classes(read: Read) -> None:
    spec = read(
        'template: "{claim}\\nTrue or not?\\n"\nlabel_words: [No, Yes]\nlabels: [false, true]\nlabel_column: holds\n'
        "metric: matthews\nmax_dev_samples: 50\ndataset: nyu-mll/glue\ndataset_config_name: cola\neval_split: test\n"
    )
    task = PromptedTask("{claim}\nTrue or not?\n", ("No", "Yes"), (False, True), "holds", "matthews")
    assert spec == TaskSpec(
        task, dataset="nyu-mll/glue", dataset_config_name="cola", eval_split="test", max_dev_samples=50
    )


def test_choices_make_a_task_of_a_row_s_own_options(read: Read) -> None:
    assert read('template: "{q}"\nchoices: ["{a}", "{b}"]\nlabels: [A, B]\nlabel_column: right\n').task == ChoiceTask(
        "{q}", choices=("{a}", "{b}"), labels=("A", "B"), label_column="right"
    )
    listed = 'template: "{q}"\nchoices_column: options\nlabel_column: null\nanswers_column: right\ntrains_on: answer\n'
    assert read(listed).task == ChoiceTask(
        "{q}", choices_column="options", label_column=None, answers_column="right", trains_on="answer"
    )


def test_an_answers_column_makes_a_task_of_words(read: Read) -> None:
    text = 'template: "{q}"\nanswers_column: replies\nmax_new_tokens: 8\nstop: "."\nmetric: exact_match\n'
    assert read(text).task == AnswerTask("{q}", "replies", ".", 8, "exact_match")


def test_local_rows_are_looked_for_beside_the_file(read: Read, tmp_path: Path) -> None:
    start = 'template: "{q}"\nlabel_words: [a, b]\n'
    spec = read(f"{start}dataset: rows.jsonl\neval_file: ../held_out.csv\n")
    assert (spec.dataset, spec.eval_file) == (str(tmp_path / "rows.jsonl"), str(tmp_path / "../held_out.csv"))
    assert read(f"{start}dataset: {tmp_path}/rows.csv\n").dataset == f"{tmp_path}/rows.csv"
    assert read(f"{start}dataset: packaged:imdb\n").dataset == "packaged:imdb"
    assert read(f"{start}dataset: stanfordnlp/imdb\n").dataset == "stanfordnlp/imdb"


def test_prepare_is_a_function_of_a_file_or_of_a_module(read: Read, tmp_path: Path) -> None:
    start = 'template: "{q}"\nlabel_words: [a, b]\n'
    (tmp_path / "rows.py").write_text("def swap(row):\n    return {**row, 'label': 1 - row['label']}\n")
    assert read(f"{start}prepare: rows.py:swap\n").prepare({"label": 0}) == {"label": 1}
    assert read(f"{start}prepare: zoft.tasks.wording:as_one_sentence\n").prepare.__name__ == "as_one_sentence"
    for name in ("rows.py:swop", "none.py:swap", "rows:swap", "swap", "zoft.nowhere:swap"):
        with pytest.raises(ConfigError, match=r"task\.yaml: prepare: expected file\.py:function or package"):
            read(f"{start}prepare: {name}\n")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def f(row:", "prepare: 'rows.py' cannot be imported: SyntaxError"),
        ("raise RuntimeError('no')", "prepare: 'rows.py' cannot be imported: RuntimeError"),
        ("f = 3", "prepare: 'rows.py:f' is a int, expected a function"),
    ],
)
def test_a_file_that_holds_no_function_is_told_and_not_traced(
    code: str, message: str, read: Read, tmp_path: Path
) -> None:
    (tmp_path / "rows.py").write_text(code)
    with pytest.raises(ConfigError, match=message):
        read('template: "{q}"\nlabel_words: [a, b]\nprepare: rows.py:f\n')


WORDS = 'template: "{q}"\nlabel_words: [a, b]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label_words: [a, b]\n", "template is missing; write for example template: '{text} It was'"),
        ('template: "{q}"\n', "a task has label_words .* found: template"),
        (f"{WORDS}metrik: f1\n", r"unknown key 'metrik'\. Did you mean 'metric'\?"),
        (f"{WORDS}stop: x\n", "unknown key 'stop'"),
        (f"{WORDS}choices: [x, y]\n", r"unknown key 'choices'\. Known, as there is label_words: template, label_words"),
        (f"{WORDS}task: sst2\n", "unknown key 'task'"),
        ("template: 3\nlabel_words: [a, b]\n", "template: expected text, got 3"),
        ('template: "{q}"\nlabel_words: terrible\n', "label_words: expected a list of texts, got 'terrible'"),
        ('template: "{q}"\nlabel_words: [1, 2]\n', r"label_words: expected a list of texts, got \[1, 2\]"),
        ('template: "{q}"\nlabel_words: {a: 1}\n', "label_words: expected a list of texts, got {'a': 1}"),
        (f"{WORDS}labels: [0.5, 1]\n", r"labels: expected a list of texts or whole numbers or truth values or nothing"),
        (f"{WORDS}max_train_samples: many\n", "max_train_samples: expected a whole number or nothing, got 'many'"),
        (f"{WORDS}max_train_samples: true\n", "max_train_samples: expected a whole number or nothing, got True"),
        (f"{WORDS}trains_on: both\n", "trains_on: expected 'options' or 'answer', got 'both'"),
        (f"{WORDS}dataset: [a]\n", "dataset: expected text or nothing"),
        ('template: "{q}"\nanswers_column: a\ntrains_on: options\n', "unknown key 'trains_on'"),
        ('template: "{q} {label}"\nlabel_words: [a, b]\n', "shows the answer"),
        ('template: "no column"\nlabel_words: [a, b]\n', "names no column"),
        (f"{WORDS}{WORDS}", "given twice"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name(text: str, message: str, read: Read) -> None:
    with pytest.raises(ConfigError, match=rf"task\.yaml.*{message}"):
        read(text)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml' cannot be read"):
        read_task("nowhere.yaml")
