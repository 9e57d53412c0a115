"""What is trained: splits without overlap, noise where it was asked for, real models through one protocol."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tests.bench.suites import PROBLEM, suite
from zoft.bench.execute import execute
from zoft.bench.problems import make_task
from zoft.bench.problems.classification import flip_labels
from zoft.bench.problems.tabular import DATASETS, _load
from zoft.errors import ConfigError, DataError

CPU = torch.device("cpu")


def build(seed: int = 0, **options: Any) -> Any:
    return make_task(options, "problem").build(seed, CPU)


@pytest.mark.parametrize("name", DATASETS)
def test_every_row_is_in_one_split(name: str) -> None:
    from sklearn import datasets

    rows = len(getattr(datasets, f"load_{name}")().target)
    splits = _load(name)
    assert sum(len(labels) for _, labels in splits.values()) == rows
    assert list(splits) == ["train", "dev", "test", "shifted"] and len(splits["shifted"][1]) == rows // 5
    x, _ = splits["train"]
    assert torch.allclose(x.mean(0), torch.zeros(x.shape[1]), atol=0.1)


def test_the_shifted_split_has_other_inputs_than_the_test_split() -> None:
    """Each feature's mean is 0 in training; where data are shifted, means are far from it."""
    for name in DATASETS:
        splits = _load(name)
        distance = {split: float(splits[split][0].mean(0).norm()) for split in ("test", "shifted")}
        assert distance["shifted"] > 2 * distance["test"], (name, distance)


def test_label_noise_hits_exactly_the_share_asked_for_and_training_alone() -> None:
    labels = torch.arange(10).repeat(20)
    noisy = flip_labels(labels, 0.25, 10, seed=3)
    assert int((noisy != labels).sum()) == 50 and noisy.min() >= 0 and noisy.max() <= 9
    assert torch.equal(noisy, flip_labels(labels, 0.25, 10, seed=3))
    assert not torch.equal(noisy, flip_labels(labels, 0.25, 10, seed=4))
    assert torch.equal(flip_labels(labels, 0.0, 10, seed=3), labels)
    clean, dirty = build(**PROBLEM), build(**PROBLEM, label_noise=0.25)
    changed = {s: int((clean._splits[s].labels != dirty._splits[s].labels).sum()) for s in clean.splits}
    assert changed == {"train": round(0.25 * clean.train_rows), "dev": 0, "test": 0, "shifted": 0}


def test_models_start_as_the_seed_says_and_data_are_the_same_for_all() -> None:
    options = {**PROBLEM, "hidden": [4]}
    first, same, other = build(0, **options), build(0, **options), build(1, **options)
    assert torch.equal(first.losses(torch.arange(8)), same.losses(torch.arange(8)))
    assert not torch.equal(first.losses(torch.arange(8)), other.losses(torch.arange(8)))
    for split in first.splits:
        assert torch.equal(first._splits[split].labels, other._splits[split].labels)


def test_chance_is_even_odds_and_the_commonest_class() -> None:
    problem = build(**PROBLEM)
    assert problem.chance("test").loss == pytest.approx(0.6931, abs=1e-4)
    assert problem.scores("test").loss == problem.chance("test").loss, "logistic regression starts at zero"


# --- pretrained models, tiny ones made here -------------------------------------------------------------

WORDS = ["dull", "bad", "flat", "fine", "great", "rich", "film", "plot", "a", "the", "boring", "excellent"]
EXTRA = ["Review", ":", "Overall", ",", "movie", "was", "is", "and", "this", "that", "once", "upon", "time"]
REVIEWS = [
    (f"{adverb} {film} is {word} and {other}", label)
    for label, words in enumerate([WORDS[:3], WORDS[3:6]])
    for word in words
    for other in words
    for film in ("film", "plot")
    for adverb in ("a", "the", "this", "that")
]


@pytest.fixture
def reviews(tmp_path: Path) -> dict[str, str]:
    for name, rows in (("usual", REVIEWS), ("long", [(f"once upon a time {t}", y) for t, y in REVIEWS])):
        lines = ["text,label", *(f"{text},{label}" for text, label in rows)]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))
    return {"dataset": str(tmp_path / "usual.csv"), "shifted": str(tmp_path / "long.csv")}


@pytest.fixture
def bert(tmp_path: Path) -> str:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "is", "and", "this", "that"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    folder = tmp_path / "bert"
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def llama(tmp_path: Path) -> str:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = ["<unk>", "<eos>", *WORDS, *EXTRA]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "llama"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def trained_names(problem: Any) -> list[str]:
    return [name for name, p in problem.model.named_parameters() if p.requires_grad]


def test_an_encoders_head_starts_where_a_linear_probe_ends(bert: str, reviews: dict[str, str]) -> None:
    problem = build(kind="encoder", model=bert, train_rows=60, eval_rows=14, **reviews)
    assert problem.train_rows == 60 and problem.splits == ("dev", "test", "shifted")
    assert problem.scores("test").loss < problem.chance("test").loss
    names = trained_names(problem)
    assert "head.weight" in names and any("attention" in name for name in names)
    losses = problem.losses(torch.arange(16))
    assert torch.equal(losses, problem.losses(torch.arange(16))), "dropout is off"


TOPICS = {"shifted": None, "labels": ["plot", "film", "neither"]}


@pytest.fixture
def topics(tmp_path: Path) -> str:
    """Rows of three classes, named by words."""
    lines = [
        f'{{"text": "{adverb} {word} {noun} is {other}", "label": "{TOPICS["labels"][number]}"}}'
        for number, noun in enumerate(("plot", "film", "fine"))
        for adverb in ("a", "the", "this", "that")
        for word in WORDS[:3]
        for other in WORDS[:6]
    ]
    (tmp_path / "topics.jsonl").write_text("\n".join(lines))
    return str(tmp_path / "topics.jsonl")


def test_an_encoder_tells_as_many_classes_as_there_are_labels(bert: str, topics: str) -> None:
    problem = build(kind="encoder", model=bert, train_rows=150, eval_rows=20, dataset=topics, **TOPICS)
    assert problem.splits == ("dev", "test") and problem.model.head.weight.shape == (3, 16)
    assert problem.chance("test").loss == pytest.approx(math.log(3.0))
    assert problem.scores("test").accuracy > 0.9, "the noun says the class, and a linear probe finds that"


def test_an_encoder_needs_rows_of_each_of_at_least_two_labels(bert: str, topics: str) -> None:
    """A probe without some of the classes would number the others anew."""
    for labels in ([], ["plot"], ["plot", "plot"]):
        with pytest.raises(ConfigError, match="labels must be at least two, and differ, got"):
            build(kind="encoder", labels=labels)
    with pytest.raises(DataError, match=r"none of the 1 training rows has the label .*: raise train_rows"):
        build(kind="encoder", model=bert, train_rows=1, eval_rows=20, dataset=topics, **TOPICS)


def test_a_prompted_model_is_asked_for_one_of_the_labels(llama: str, topics: str) -> None:
    words = {"template": "{text} that was a", "label_words": ["plot", "film", "fine"]}
    problem = build(kind="prompted", model=llama, train_rows=150, eval_rows=20, dataset=topics, **TOPICS, **words)
    assert problem.splits == ("dev", "test") and problem.losses(torch.arange(4)).shape == (4,)
    assert problem.chance("test").loss == pytest.approx(math.log(3.0))


def test_an_encoder_trains_an_adapter_and_its_head(bert: str, reviews: dict[str, str]) -> None:
    names = trained_names(build(kind="encoder", model=bert, train="lora", train_rows=60, eval_rows=14, **reviews))
    assert {"lora" in name or name.startswith("head.") for name in names} == {True} and len(names) == 2 + 4


def test_names_choose_what_is_trained(bert: str, reviews: dict[str, str]) -> None:
    names = trained_names(
        build(kind="encoder", model=bert, train="*LayerNorm*", train_rows=60, eval_rows=14, **reviews)
    )
    assert names and all("LayerNorm" in name or name.startswith("head.") for name in names)
    with pytest.raises(
        ConfigError, match="train must be full, lora or a pattern of parameter names; '\\*Lora\\*' matches"
    ):
        build(kind="encoder", model=bert, train="*Lora*", train_rows=60, eval_rows=14, **reviews)


MASKED = {"template": "{text} and that is [MASK]"}


@pytest.mark.parametrize("train", ["full", "lora"])
@pytest.mark.parametrize(("model", "prompt"), [("llama", {}), ("bert", MASKED)])
def test_a_prompted_model_runs_through_the_same_protocol(
    train: str, model: str, prompt: dict[str, str], request: pytest.FixtureRequest, reviews: dict[str, str]
) -> None:
    name = request.getfixturevalue(model)
    task = {"kind": "prompted", "model": name, "train": train, "train_rows": 60, "eval_rows": 14, **reviews, **prompt}
    made = suite(problems={"prompted": task}, methods=["mezo", "fo_adamw"], zo_placement="auto")
    for method in made.method_names:
        result = execute(made.run("prompted", method, 1e-2, 0, "final"))
        assert result["status"] == "done" and set(result["scores"]) == {"dev", "test", "shifted"}
        assert 0 < result["forwards"] <= made.budget_forwards
        assert result["curve"][-1][2] != result["curve"][0][2], "something was trained"
