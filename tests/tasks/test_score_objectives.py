"""Metrics as objectives: their values are those of a plain re-implementation, and estimates are made of them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sklearn.metrics
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import zoft
from tests.tasks.placed import placed
from zoft.errors import ConfigError
from zoft.evaluation.metrics import metric
from zoft.evaluation.predictions import Prediction
from zoft.problems.objectives.scores import score_losses
from zoft.problems.prompted import prompted_problem
from zoft.tasks.answers import AnswerTask
from zoft.tasks.data import Splits
from zoft.tasks.encoding import PromptEncoder
from zoft.tasks.prompted import PromptedTask
from zoft.tasks.scoring import option_scores

TASK = PromptedTask("{text} It was", ("terrible", "great"))
LABELS = [0, 1, 1, 0, 1, 0]
TEXTS = ["a film", "great", "from start to end", "a cast", "not rather good", "it is"]
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]


def objective(model: Any, tokenizer: Any, task: Any, rows: list[dict[str, Any]], name: str) -> torch.Tensor:
    encoder = PromptEncoder(replace(task, metric=name), tokenizer)
    dataset = encoder.encode(rows)
    losses = score_losses(encoder, dataset, metric(name))
    # In another order than the data set's: a batch says which rows it holds.
    places = list(reversed(range(len(rows))))
    with torch.no_grad():
        return losses(model, encoder.collator()([dataset[place] for place in places]))


def chosen(model: Any, tokenizer: Any) -> list[int]:
    """What the model chooses for each row, evaluated alone."""
    encoder = PromptEncoder(TASK, tokenizer)
    dataset = encoder.encode(ROWS)
    with torch.no_grad():
        return [int(option_scores(model, encoder.collator()([example])).argmax()) for example in dataset.examples]


def test_accuracy_is_the_error_of_each_example(
    causal_model: PreTrainedModel, causal_tokenizer: PreTrainedTokenizerFast
) -> None:
    got = objective(causal_model, causal_tokenizer, TASK, ROWS, "accuracy")
    said = chosen(causal_model, causal_tokenizer)
    assert got.tolist() == [float(a != b) for a, b in zip(said, LABELS, strict=True)][::-1]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("macro_f1", lambda y, p: sklearn.metrics.f1_score(y, p, average="macro", zero_division=0)),
        ("matthews", sklearn.metrics.matthews_corrcoef),
        ("sklearn.metrics:balanced_accuracy_score", sklearn.metrics.balanced_accuracy_score),
    ],
)
def test_a_metric_of_the_batch_is_one_number(
    name: str, plain: Any, llama: PreTrainedModel, causal_tokenizer: PreTrainedTokenizerFast
) -> None:
    got = objective(llama, causal_tokenizer, TASK, ROWS, name)
    assert got.shape == ()
    assert got.item() == pytest.approx(1.0 - plain(LABELS, chosen(llama, causal_tokenizer)), abs=1e-6)


def test_f1_of_answers_is_that_of_what_is_written(
    llama: PreTrainedModel, causal_tokenizer: PreTrainedTokenizerFast
) -> None:
    task = AnswerTask("{text} It was", max_new_tokens=3)
    ids = causal_tokenizer("a film It was")["input_ids"]
    written: list[int] = []
    with torch.no_grad():
        for _ in range(3):
            written.append(int(llama(input_ids=torch.tensor([ids + written])).logits[0, -1].argmax()))
    text = causal_tokenizer.decode(written, skip_special_tokens=True).partition("\n")[0].strip()
    rows = [{"text": "a film", "answers": [f"{text} zzz zzz"]}, {"text": "a film", "answers": ["zzz"]}]
    words = len(text.split())
    assert words  # or the test proves nothing
    got = objective(llama, causal_tokenizer, task, rows, "f1")
    assert got.tolist() == pytest.approx([1.0, 1.0 - 2 * words / (2 * words + 2)])


def test_a_function_of_ones_own_is_found_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama: PreTrainedModel, causal_tokenizer: PreTrainedTokenizerFast
) -> None:
    (tmp_path / "my_own_metric.py").write_text(
        "def share(right, said):\n    return sum(a == b == 1 for a, b in zip(right, said)) / len(right)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    got = objective(llama, causal_tokenizer, TASK, ROWS, "my_own_metric:share")
    said = chosen(llama, causal_tokenizer)
    assert got.item() == pytest.approx(1.0 - sum(a == b == 1 for a, b in zip(LABELS, said, strict=True)) / 6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("acuracy", "Did you mean 'accuracy'"),
        ("no_such_module:score", "there is no module 'no_such_module'"),
        ("sklearn.metrics:no_such_score", "has no 'no_such_score'"),
        ("sklearn.metrics:__name__", "expected a function"),
        (":score", "expected package.module:function"),
    ],
)
def test_a_metric_that_is_not_there_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        metric(name)


@pytest.mark.parametrize("name", ["sklearn.metrics:confusion_matrix", "sklearn.metrics:log_loss_of", "math:gcd"])
def test_a_metric_that_fails_or_is_no_number_is_named(name: str) -> None:
    prediction = Prediction(expected=("great",), predicted="great", right=(1,), chosen=1)
    with pytest.raises(ConfigError, match=name.partition(":")[2]):
        metric(name).of([prediction])


def test_a_model_without_a_finite_score_has_no_error_rate(
    llama: PreTrainedModel, causal_tokenizer: PreTrainedTokenizerFast
) -> None:
    with torch.no_grad():
        llama.model.norm.weight.fill_(math.nan)
    assert objective(llama, causal_tokenizer, TASK, ROWS, "accuracy").isnan().all()


@pytest.mark.parametrize("placement", ["stream", "snapshot"])
def test_an_estimate_is_the_difference_of_error_rates(
    placement: str, llama: PreTrainedModel, causal_tokenizer: PreTrainedTokenizerFast
) -> None:
    """At weights that are moved by hand, one example at a time; and afterwards no weight has changed."""
    problem = prompted_problem(
        PromptEncoder(TASK, causal_tokenizer), Splits(placed(ROWS), placed(ROWS)), optimizes_metric=True
    )
    batch = problem.collator([problem.train[place] for place in range(len(ROWS))])
    eps = 0.3
    config = zoft.ZOConfig(method="mezo", zo_eps=eps, placement=placement)
    optimizer = zoft.ZOOptimizer(llama, lr=0.0, config=config)
    before = [weight.clone() for weight in llama.parameters()]
    estimate = optimizer.engine.estimate(lambda: problem.losses(llama, batch).mean())
    assert all(map(torch.equal, before, llama.parameters()))

    def error_rate(scale: float) -> float:
        with torch.no_grad():
            for trainable in optimizer.engine.trainables:
                z = torch.zeros_like(trainable.parameter)
                span = zoft.noise.Span(z, z, trainable.number)
                optimizer.engine.directions.combine([span], [zoft.noise.Term(0, 0, scale)])
                trainable.parameter.add_(z)
            said = chosen(llama, causal_tokenizer)
            for weight, was in zip(llama.parameters(), before, strict=True):
                weight.copy_(was)
        return sum(a != b for a, b in zip(said, LABELS, strict=True)) / len(LABELS)

    slope = (error_rate(eps) - error_rate(-eps)) / (2 * eps)
    assert slope != 0.0  # or the test proves nothing
    assert estimate.scalars[0] == pytest.approx(slope, abs=1e-6)


@pytest.mark.slow
def test_a_metric_of_the_library_evaluate_is_loaded_by_name(tmp_path: Path) -> None:
    """Of the Hub's, or, as here, from a script."""
    script = tmp_path / "two_shares.py"
    script.write_text(
        "import datasets\n"
        "import evaluate\n"
        "class TwoShares(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        value = datasets.Value('int32')\n"
        "        features = datasets.Features({'predictions': value, 'references': value})\n"
        "        return evaluate.MetricInfo(description='', citation='', inputs_description='', features=features)\n"
        "    def _compute(self, predictions, references):\n"
        "        right = sum(a == b for a, b in zip(predictions, references)) / len(references)\n"
        "        return {'right': right, 'wrong': 1.0 - right}\n"
    )
    predictions = [Prediction((), "", right=(label,), chosen=1) for label in (0, 1, 1, 1)]
    assert metric(f"evaluate:{script}:right").of(predictions) == 0.75
    with pytest.raises(ConfigError, match="one of right, wrong"):
        metric(f"evaluate:{script}").of(predictions)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        metric("evaluate:no_such_metric_anywhere")
