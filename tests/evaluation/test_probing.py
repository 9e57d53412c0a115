"""A linear probe: scikit-learn's logistic regression on what the output layer reads, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from tests.tasks.architectures import make_model, tokenizer_for
from zoft.errors import ConfigError, DataError
from zoft.evaluation.probing import STRENGTHS, evaluate_probe, fit_probe, label_features
from zoft.tasks.answers import AnswerTask
from zoft.tasks.encoding import PromptEncoder
from zoft.tasks.prompted import PromptedTask
from zoft.tasks.task import ModelKind

WORDS = ("terrible", "great")
ROWS = [
    {"text": " ".join(["film"] * (number % 7) + ["dull" if number % 2 else "lovely"]), "label": number % 2}
    for number in range(40)
]


def encoder_for(kind: ModelKind, words: tuple[str, ...] = WORDS) -> PromptEncoder:
    template = "{text} It was [MASK] ." if kind == "masked" else "{text} It was"
    return PromptEncoder(PromptedTask(template, words), tokenizer_for(kind), 64, kind=kind)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "roberta", "bert", "t5"])
def test_features_are_what_the_output_layer_reads_at_the_label(name: str) -> None:
    kind: ModelKind = {"roberta": "masked", "bert": "masked", "t5": "seq2seq"}.get(name, "causal")  # type: ignore[assignment]
    model, encoder = make_model(name), encoder_for(kind, WORDS if kind == "masked" else ("rather terrible", "great"))
    data = encoder.encode(ROWS[:9])
    features = label_features(model, data, encoder, batch_size=4)
    head = model.get_output_embeddings()
    assert features.shape == (9, 32) and all(len(example["options"]) == 2 for example in data.examples)
    for row, of_row in zip(data.examples, features, strict=True):
        inputs = {"input_ids": torch.tensor([row["input_ids"]])}
        place = row["position"]
        if kind == "seq2seq":
            inputs["decoder_input_ids"], place = torch.tensor([[model.config.decoder_start_token_id]]), 0
        with torch.no_grad():
            want = model(**inputs).logits[0, place]
            got = head(torch.from_numpy(of_row).float())
        torch.testing.assert_close(got, want, atol=2e-5, rtol=2e-5)


def test_a_probe_is_logistic_regression_on_standardised_features() -> None:
    model, encoder = make_model("llama"), encoder_for("causal")
    train, evaluation = encoder.encode(ROWS[:30]), encoder.encode(ROWS[30:])
    found = evaluate_probe(model, train, evaluation, encoder, batch_size=8)

    def hidden(row: dict[str, object]) -> np.ndarray:
        ids = tokenizer_for("causal")(f"{row['text']} It was", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            return np.asarray(model(ids, output_hidden_states=True).hidden_states[-1][0, -1].double())

    features = np.stack([hidden(row) for row in ROWS])
    labels = np.array([row["label"] for row in ROWS])

    def predicted(fitted: np.ndarray, asked: np.ndarray, strength: float) -> np.ndarray:
        scaler = StandardScaler().fit(features[fitted])
        plain = LogisticRegression(C=strength, max_iter=5000).fit(scaler.transform(features[fitted]), labels[fitted])
        return np.asarray(plain.predict_log_proba(scaler.transform(features[asked])))

    def loss_of_folds(strength: float) -> float:
        folds = StratifiedKFold(5).split(features[:30], labels[:30])
        return float(np.mean([-predicted(a, b, strength)[range(len(b)), labels[b]].mean() for a, b in folds]))

    strength = min(STRENGTHS, key=loss_of_folds)
    want = predicted(np.arange(30), np.arange(30, 40), strength)
    assert [one.chosen for one in found.predictions] == want.argmax(1).tolist()
    losses = [-want[place, label] for place, label in enumerate(labels[30:])]
    assert [one.loss for one in found.predictions] == pytest.approx(losses, abs=1e-3)
    assert found.scores["accuracy"] == 1, "the last word tells the classes apart"


def test_how_far_a_probe_follows_its_features_depends_on_what_they_say() -> None:
    """Weights that are held back as scikit-learn does by default fit the noise in the first ones."""
    generator, labels = np.random.default_rng(0), np.arange(600) % 2
    noise = generator.normal(size=(600, 60))
    telling = noise + (labels[:, None] - 0.5)

    def held_out_loss(features: np.ndarray, probe: LogisticRegression) -> float:
        found = probe.predict_log_proba(features[300:])
        return -float(found[range(300), labels[300:]].mean())

    chosen = {}
    for name, features in (("noise", noise), ("telling", telling)):
        probe = fit_probe(features[:300], labels[:300].tolist())
        chosen[name] = probe[-1].C
        default = LogisticRegression(C=1.0).fit(StandardScaler().fit_transform(features[:300]), labels[:300])
        if name == "noise":
            assert held_out_loss(features, default) > 0.8, "which is worse than knowing nothing, 0.693"
            assert held_out_loss(features, probe) < 0.7
        else:
            assert held_out_loss(features, probe) < 0.1
    assert chosen["noise"] < max(STRENGTHS) and chosen["telling"] > min(STRENGTHS)


def test_what_cannot_be_probed_is_refused() -> None:
    model, encoder = make_model("llama"), encoder_for("causal")
    data = encoder.encode(ROWS)
    with pytest.raises(DataError, match="two training rows of each class at least; 'great' has fewer"):
        evaluate_probe(model, encoder.encode([*ROWS[::2], ROWS[1]]), data, encoder)
    asked = PromptEncoder(AnswerTask("{text} who?"), tokenizer_for("causal"), 64)
    with pytest.raises(ConfigError, match="linear_probe tells classes apart, and this task has none"):
        evaluate_probe(model, data, data, asked)
