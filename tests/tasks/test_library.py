"""Every task of the library with every kind of model: the prompt, the scores, a step, an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import zoft
from tests.tasks.architectures import ARCHITECTURES, make_model, tokenizer_for
from tests.tasks.library_rows import CASES
from tests.tasks.placed import placed
from zoft.cli.families.prompted import task_for
from zoft.errors import ConfigError, DataError
from zoft.evaluation.metrics import metric
from zoft.problems.problem import Problem
from zoft.problems.prompted import prompted_problem
from zoft.tasks.answers import AnswerTask
from zoft.tasks.choices import ChoiceTask
from zoft.tasks.data import Splits, load_splits
from zoft.tasks.encoding import PromptEncoder
from zoft.tasks.library import task_names, task_spec
from zoft.tasks.prompted import PromptedTask
from zoft.tasks.scoring import option_scores
from zoft.tasks.task import ModelKind, Task
from zoft.tasks.template import MASK

FIXED_WORDS = [name for name in CASES if isinstance(task_spec(name).task, PromptedTask)]
PAIRS = [
    (task, architecture)
    for task in CASES
    for architecture, (kind, _) in ARCHITECTURES.items()
    if (kind != "masked" and not task.endswith("_masked")) or (kind == "masked" and task in FIXED_WORDS)
]
BY_TASK = {task: [architecture for other, architecture in PAIRS if other == task] for task in CASES}
# Every task and every architecture at least once; the others take minutes.
QUICK = {(task, BY_TASK[task][index % len(BY_TASK[task])]) for index, task in enumerate(CASES)}
QUICK |= {("sst2", "t5"), ("copa", "t5"), ("squad", "t5")}


def prepared(name: str) -> list[dict[str, Any]]:
    prepare = task_spec(name).prepare
    made = [row if prepare is None else prepare(row) for row in CASES[name].rows]
    return [row for row in made if row is not None]


def set_up(name: str, architecture: str) -> tuple[PromptEncoder, Problem, PreTrainedModel]:
    kind, _ = ARCHITECTURES[architecture]
    encoder = PromptEncoder(task_for(kind, task_spec(name).task), tokenizer_for(kind), kind=kind)
    rows = prepared(name)
    given = placed(rows)
    return encoder, prompted_problem(encoder, Splits(given, given), inspect=False), make_model(architecture)


def plain_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, kind: ModelKind, task: Task, row: dict[str, Any]
) -> Tensor:
    """Each option alone, unpadded, its whole text tokenised with its prompt: the mean log-probability of its tokens."""
    prompt = task.template.format(**row).replace(MASK, "<mask>")
    scores = []
    for option in task.options(row):
        ids = tokenizer(prompt)["input_ids"]
        if kind == "seq2seq":
            labels = torch.tensor([tokenizer(option.strip())["input_ids"]])
            scores.append(-model(input_ids=torch.tensor([ids]), labels=labels).loss)
        elif kind == "masked":
            logits = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            (word,) = tokenizer(option, add_special_tokens=False)["input_ids"]
            scores.append(logits[ids.index(tokenizer.mask_token_id), word])
        else:
            whole = tokenizer(prompt + option)["input_ids"]
            assert whole[: len(ids)] == ids, "the option must begin where a token does"
            logits = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
            scores.append(torch.stack([logits[k - 1, whole[k]] for k in range(len(ids), len(whole))]).mean())
    return torch.stack(scores)


def test_there_are_rows_for_every_task_and_every_architecture_takes_a_step() -> None:
    assert set(CASES) == set(task_names()) == {task for task, _ in QUICK}
    assert set(ARCHITECTURES) == {architecture for _, architecture in QUICK}


@pytest.mark.parametrize("name", CASES)
def test_prompt_options_and_answer_are_as_published(name: str) -> None:
    task, case, row = task_spec(name).task, CASES[name], prepared(name)[0]
    task.columns.check(row)
    assert task.template.format(**row) == case.prompt
    assert task.options(row) == case.options
    assert task.right(row) == case.right


@pytest.mark.parametrize("name", CASES)
def test_metric_and_loss_are_those_of_mezo(name: str) -> None:
    spec = task_spec(name)
    words = name in ("squad", "drop")
    assert spec.task.metric == ("f1" if words else "accuracy")
    metric(spec.task.metric, has_classes=spec.task.columns.label is not None)
    by_answer = name in ("copa", "record", "squad", "drop")
    assert spec.task.trains_on == ("answer" if by_answer else "options")
    few = {"copa": (300, 100), "cb": (1000, 100), "wsc": (1000, 100)}
    assert (spec.max_train_samples, spec.max_dev_samples) == few.get(name, (1000, 500))
    assert spec.max_eval_samples == 1000


@torch.no_grad()
@pytest.mark.parametrize(("name", "architecture"), PAIRS)
def test_scores_of_a_padded_batch_equal_those_of_each_option_alone(name: str, architecture: str) -> None:
    encoder, problem, model = set_up(name, architecture)
    batch = problem.collator(problem.evaluation.examples)
    scores = option_scores(model, batch)
    for index, row in enumerate(problem.evaluation.rows):
        want = plain_scores(model, encoder.tokenizer, encoder.kind, encoder.task, row)
        got = scores[index, : len(want)]
        assert torch.isneginf(scores[index, len(want) :]).all()
        if batch["option_ids"].dim() == 2:  # one token each: logits, which share a normaliser
            got, want = got.log_softmax(-1), want.log_softmax(-1)
        torch.testing.assert_close(got, want, atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "architecture"), [pytest.param(*pair, marks=[] if pair in QUICK else pytest.mark.slow) for pair in PAIRS]
)
def test_a_step_trains_and_the_evaluation_says_what_was_chosen(name: str, architecture: str) -> None:
    encoder, problem, model = set_up(name, architecture)
    batch = problem.collator([problem.train[index] for index in range(len(problem.train))])
    if encoder.task.trains_on == "answer":
        assert batch["option_ids"].shape[1] == 1, "only the right answer is evaluated"
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = zoft.ZOOptimizer(model, lr=1e-3, config=zoft.ZOConfig(method="mezo", zo_eps=1e-3, seed=0))
    loss = optimizer.step(lambda: problem.losses(model, batch).mean())
    assert loss is not None and loss.isfinite()
    assert any(not torch.equal(new, old) for new, old in zip(model.parameters(), before, strict=True))

    result = problem.evaluate(model, problem.evaluation, batch_size=2)
    assert result.scores["n"] == len(problem.evaluation) == len(result.predictions)
    assert 0 <= result.scores[problem.metric] <= 1
    for row, one in zip(problem.evaluation.rows, result.predictions, strict=True):
        if isinstance(encoder.task, AnswerTask):
            assert one.expected == tuple(row["answers"])
        else:
            options = [option.strip() for option in encoder.task.options(row)]
            assert one.predicted in options
            assert one.expected == tuple(options[index] for index in encoder.task.right(row))


# --- where rows come from ------------------------------------------------------------------------------


def load(name: str, **source: Any) -> Splits:
    spec = task_spec(name)
    return load_splits(spec.task.columns, prepare=spec.prepare, drop_shared_texts=False, **source)


def by_text(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def uniform(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of one schema, which a table has to have: those that have the first one's columns."""
    return [row for row in rows if row.keys() == rows[0].keys() and type(row.get("label", 0)) is int]


FEW_ROWS = pytest.mark.filterwarnings("ignore:no training row has the label")  # as these rows are few


@FEW_ROWS
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("name", CASES)
def test_rows_load_from_files_with_the_hub_s_columns(name: str, suffix: str, tmp_path: Path) -> None:
    rows, path = CASES[name].rows, tmp_path / f"rows{suffix}"
    want = prepared(name)
    if suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        rows = uniform(rows)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        want = want[: len(rows)]
    splits = load(name, train_file=str(path), eval_file=str(path))
    assert by_text(splits.train) == by_text(splits.evaluation) == by_text(want)


@FEW_ROWS
@pytest.mark.parametrize("name", CASES)
def test_rows_load_from_the_hub_s_data_sets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, rows = task_spec(name), uniform(CASES[name].rows)
    asked: list[tuple[str, str | None]] = []

    def load_dataset(dataset: str, config: str | None) -> datasets.DatasetDict:
        asked.append((dataset, config))
        table = datasets.Dataset.from_list(rows)
        held_out = spec.eval_split or ("test" if name == "trec_masked" else "validation")
        return datasets.DatasetDict({"train": table, held_out: table})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    splits = load(
        name,
        dataset=spec.dataset,
        dataset_config_name=spec.dataset_config_name,
        eval_split=spec.eval_split,
    )
    assert asked == [(spec.dataset, spec.dataset_config_name)]
    assert by_text(splits.train) == by_text(splits.evaluation) == by_text(prepared(name)[: len(rows)])


def test_a_data_set_that_is_a_script_is_told_as_an_error_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*names: str) -> None:
        raise RuntimeError("Dataset scripts are no longer supported, but found trec.py")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match="no longer supported"):
        load("sst2", dataset="CogComp/trec")


def test_snli_pairs_without_agreement_are_left_out() -> None:
    assert len(CASES["snli_masked"].rows) - 1 == len(prepared("snli_masked"))


def test_labels_of_boolq_may_be_numbers_truth_values_or_their_names() -> None:
    assert [row["label"] for row in prepared("boolq")] == [1, 0, 1]
    prepare = task_spec("boolq").prepare
    assert prepare is not None
    row = {"passage": "p", "question": "q"}
    assert [prepare({**row, "label": label})["label"] for label in (0, "1", True, "False")] == [0, "1", 1, 0]


def test_a_name_that_is_no_task_is_answered_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'squad'\? Known: boolq, cb, copa, .* wsc"):
        task_spec("sqad")
    assert task_spec("SST2") is task_spec("sst2")


# --- options in general --------------------------------------------------------------------------------

CHOICES = ChoiceTask("{stem}", choices_column="options")


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "t5"])
def test_examples_of_a_batch_may_differ_in_their_number_of_options(architecture: str) -> None:
    kind, _ = ARCHITECTURES[architecture]
    encoder, model = PromptEncoder(CHOICES, tokenizer_for(kind), kind=kind), make_model(architecture)
    rows = [
        {"stem": "The mill was", "options": ["shut", "open all day", "sold to a man from Vik"], "label": 1},
        {"stem": "Who", "options": ["sings?", "is it that came back so late?"], "label": 0},
    ]
    data = encoder.encode(rows)
    together = option_scores(model, encoder.collator()(data.examples))
    assert torch.isneginf(together[1, 2])
    for index, example in enumerate(data.examples):
        alone = option_scores(model, encoder.collator()([example]))[0]
        torch.testing.assert_close(together[index, : len(alone)], alone, atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_a_prompt_that_is_cut_leaves_room_for_its_longest_option(kind: ModelKind) -> None:
    encoder = PromptEncoder(CHOICES, tokenizer_for(kind), max_length=40, kind=kind)
    row = {"stem": "The mill was shut " * 30 + "and", "options": ["no", "so they all went home again"], "label": 0}
    data = encoder.encode([row])
    assert data.lengths[0] > len(data[0]["input_ids"])
    longest = encoder.collator()(data.examples)["input_ids"].shape[-1]
    assert 30 < longest <= 40


def test_an_option_that_the_tokenizer_merges_with_the_prompt_is_told(recwarn: pytest.WarningsRecorder) -> None:
    encoder = PromptEncoder(ChoiceTask("{stem} gre", choices_column="options"), tokenizer_for("causal"))
    task = encoder.task
    assert task.options({"stem": "a", "options": ["x"], "label": 0}) == (" x",), "a space is put between"
    glued = ChoiceTask("{stem} ", choices_column="options")  # the space belongs to the word's token
    encoded = PromptEncoder(glued, tokenizer_for("causal")).encode(
        [{"stem": "It was", "options": ["great", "bad"], "label": 0}]
    )
    assert "merges the end" in str(recwarn.pop().message)
    assert [len(option) for option in encoded[0]["options"]] == [1, 1]
