"""Classes and their order, encoded texts and images, and the last layer as a logistic regression."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from sklearn.metrics import f1_score

from tests.tasks.architectures import tokenizer_for
from tests.tasks.classifiers import BODIES, LAST_LAYERS, OF_IMAGES, image_processor, pictures, save_body, write_texts
from zoft.errors import ConfigError, DataError
from zoft.evaluation.classes import evaluate_classes
from zoft.evaluation.last_layer import last_layer, probe_last_layer
from zoft.evaluation.probing import fit_probe
from zoft.tasks.class_encoding import ClassEncoder, ImageEncoder, TextEncoder
from zoft.tasks.class_scoring import class_logits, class_losses
from zoft.tasks.classes import ClassTask, find_labels, in_order_of_model, names_other_classes
from zoft.tasks.files import load_rows
from zoft.tasks.image_rows import DIGEST, ImageReader
from zoft.tasks.places import Place, Row
from zoft.tasks.rows import Columns

every_body = pytest.mark.parametrize("body", BODIES)


def rows_of(body: str, folder: Path) -> list[Row]:
    if body not in OF_IMAGES:
        return load_rows(write_texts(folder / "rows.jsonl"))
    reader = ImageReader("image", "label")
    places = (Place("pictures", "row", number) for number in range(1, 100))
    rows = [({"image": pixels, "label": shade}) for shade, pixels in pictures()]
    return [Row(reader(row), place) for row, place in zip(rows, places, strict=False)]


def encoder_of(body: str, rows: list[Row]) -> ClassEncoder:
    labels = find_labels(rows, "label")
    task = ClassTask(Columns((DIGEST if body in OF_IMAGES else "text",), "label", labels), labels)
    if body in OF_IMAGES:
        return ImageEncoder(task, image_processor())
    return TextEncoder(task, tokenizer_for("masked"), 32)


def loaded(body: str, folder: Path, classes: int = 3) -> Any:
    auto = hf.AutoModelForImageClassification if body in OF_IMAGES else hf.AutoModelForSequenceClassification
    torch.manual_seed(1)
    return auto.from_pretrained(save_body(body, folder), num_labels=classes)


# --- labels ---------------------------------------------------------------------------------------------


def rows(*labels: Any) -> list[Row]:
    return [Row({"label": label}, Place("rows.csv", "line", number)) for number, label in enumerate(labels, start=2)]


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (["b", "a", "b", "a"], ("a", "b")),
        (["10", 2, 10.0, "9", 9, 2], ("2", "9", "10")),
        ([True, "false", False, True], ("false", "true")),
    ],
)
def test_the_classes_are_those_that_occur_in_a_fixed_order(labels: list[Any], found: tuple[str, ...]) -> None:
    assert find_labels(rows(*labels), "label") == found
    assert find_labels(rows(*reversed(labels)), "label") == found


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", None, "b"], "rows.csv: line 3: column 'label' must hold a class, a text or a whole number, got None"),
        (["a", 0.5], "line 3: .* got 0.5"),
        (["a", "a", "a"], "holds one class alone, a, in 3 rows"),
        (list("abcdefghijkk"), "holds 11 different values in 12 rows, which are hardly classes"),
    ],
)
def test_what_is_no_class_is_refused_by_its_row(labels: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_labels(rows(*labels), "label")


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (("a", "b"), ("LABEL_0", "LABEL_1"), (("a", "b"), ("a", "b"))),  # the model knows no names
        (("neg", "pos"), ("POS", "NEG"), (("pos", "neg"), ("POS", "NEG"))),  # it has them in another order
        (("0", "1"), ("NEGATIVE", "POSITIVE"), (("0", "1"), ("NEGATIVE", "POSITIVE"))),  # labels are places
        (("a", "b"), ("c", "d"), (("a", "b"), ("a", "b"))),
        (("a", "b", "c"), ("a", "b"), (("a", "b", "c"), ("a", "b", "c"))),
    ],
)
def test_a_model_that_knows_the_classes_keeps_its_order(labels: Any, names: Any, expected: Any) -> None:
    assert in_order_of_model(labels, names) == expected
    assert in_order_of_model(expected[0], expected[1]) == expected, "what was loaded so is read so"
    assert names_other_classes(labels, names) == (names == ("c", "d"))


# --- losses and scores ----------------------------------------------------------------------------------


@every_body
def test_losses_are_those_of_transformers(body: str, tmp_path: Path) -> None:
    some = rows_of(body, tmp_path)[:6]
    encoder, model = encoder_of(body, rows_of(body, tmp_path)), loaded(body, tmp_path / "model").eval()
    encoded = encoder.encode(some)
    batch = encoder.collator()([encoded[index] for index in range(len(some))])
    assert {len(tensor) for tensor in batch.values()} == {6}
    with torch.no_grad():
        losses = class_losses(model, batch)
        theirs = model(**{name: tensor for name, tensor in batch.items() if name != "row"}).loss
    torch.testing.assert_close(losses.mean(), theirs)


@every_body
def test_scores_do_not_depend_on_the_batches(body: str, tmp_path: Path) -> None:
    found = rows_of(body, tmp_path)
    encoder, model = encoder_of(body, found), loaded(body, tmp_path / "model").train()
    encoded = encoder.encode(found)
    one, many = (evaluate_classes(model, encoded, encoder, batch_size=size) for size in (1, 16))
    assert [a.chosen for a in one.predictions] == [b.chosen for b in many.predictions]
    np.testing.assert_allclose([a.loss for a in one.predictions], [b.loss for b in many.predictions], atol=1e-4)
    assert model.training
    right, chosen = [a.right[0] for a in one.predictions], [a.chosen for a in one.predictions]
    assert one.scores["macro_f1"] == pytest.approx(f1_score(right, chosen, average="macro", zero_division=0))
    assert one.scores["accuracy"] == np.mean(np.equal(right, chosen))
    assert one.scores["classes"] == list(encoder.task.names) and len(one.scores["class_accuracy"]) == 3


def test_a_pair_is_read_as_a_pair_and_loses_of_its_longer_text() -> None:
    task = ClassTask(Columns(("a", "b"), "label", ("0", "1")), ("0", "1"))
    tokenizer = tokenizer_for("masked")
    encoded = TextEncoder(task, tokenizer, 12).encode([{"a": "short", "b": "w o r d s " * 9, "label": 1}])
    assert encoded[0]["labels"] == 1 and len(encoded[0]["input_ids"]) == 12 < encoded.lengths[0]
    assert tokenizer.decode(encoded[0]["input_ids"], skip_special_tokens=True).startswith("short")


# --- the last layer -------------------------------------------------------------------------------------


@every_body
@pytest.mark.parametrize("classes", [2, 3])
def test_a_probed_model_computes_what_the_regression_does_and_nothing_else_has_changed(
    body: str, classes: int, tmp_path: Path
) -> None:
    """Two classes have one row of weights in scikit-learn; a layer without bias has a regression without one."""
    everything = rows_of(body, tmp_path)
    kept = set(find_labels(everything, "label")[:classes])
    found = [row for row in everything if row["label"] in kept]
    encoder, model = encoder_of(body, found), loaded(body, tmp_path / "model", classes)
    encoded = encoder.encode(found)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    batch = encoder.collator()([encoded[index] for index in range(len(found))])
    layer = last_layer(model, batch)
    assert layer.name == LAST_LAYERS[body]
    read: list[torch.Tensor] = []
    hook = layer.module.register_forward_hook(lambda _, inputs, __: read.append(inputs[0]))
    with torch.no_grad():
        scores = class_logits(model.eval(), batch)
    hook.remove()
    features = read[0]
    if features.dim() == 3:  # a decoder's: of each token, of which the last one's counts
        features = features[torch.arange(len(found)), batch["attention_mask"].sum(1) - 1]
    torch.testing.assert_close(layer.module(features), scores, atol=1e-5, rtol=1e-4)

    written = probe_last_layer(model, encoded, encoder, batch_size=7)

    has_bias = layer.module.bias is not None
    assert written == tuple(f"{layer.name}.{name}" for name in ("weight", "bias")[: 1 + has_bias])
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == set(written)
    regression = fit_probe(features.detach().double().numpy(), encoded.labels, with_bias=has_bias)
    with torch.no_grad():
        probabilities = class_logits(model, batch).softmax(1)
    theirs = regression.predict_proba(features.detach().double().numpy())
    np.testing.assert_allclose(probabilities.numpy(), theirs, atol=2e-3)


def test_a_model_whose_scores_are_not_one_layers_is_refused(tmp_path: Path) -> None:
    """DeiT with its teacher takes the mean of two layers."""
    config = hf.DeiTConfig(image_size=8, patch_size=4, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    found = rows_of("vit", tmp_path)
    encoder = encoder_of("vit", found)
    config.num_labels = 3
    model = hf.DeiTForImageClassificationWithTeacher(config)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with pytest.raises(ConfigError, match="fits the linear layer whose output the scores of a model are"):
        probe_last_layer(model, encoder.encode(found), encoder)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_is_not_fitted_to_what_its_features_do_not_say(tmp_path: Path) -> None:
    """Labels that have nothing to do with the texts leave the layer near the share of each, and true ones do not."""
    found = rows_of("bert", tmp_path)
    mixed = [found[place]["label"] for place in np.random.default_rng(0).permutation(len(found))]
    surest = []
    for labels in (mixed, [row["label"] for row in found]):
        some = [Row({**row, "label": label}, row.place) for row, label in zip(found, labels, strict=True)]
        encoder, model = encoder_of("bert", some), loaded("bert", tmp_path / "model")
        encoded = encoder.encode(some)
        probe_last_layer(model, encoded, encoder)
        with torch.no_grad():
            scores = class_logits(model.eval(), encoder.collator()([encoded[index] for index in range(len(some))]))
        surest.append(scores.softmax(1).max(1).values.mean().item())
    assert surest[0] < 0.4 and surest[1] > 0.6


def test_a_class_with_fewer_than_two_training_rows_cannot_be_probed(tmp_path: Path) -> None:
    found = rows_of("bert", tmp_path)
    encoder, model = encoder_of("bert", found), loaded("bert", tmp_path / "model")
    some = [row for row in found if row["label"] != "food"]
    one = next(row for row in found if row["label"] == "food")
    for few in (some, [*some, one]):  # one row cannot be both fitted and measured on
        with pytest.raises(DataError, match="needs two training rows of each class at least; 'food' has fewer"):
            probe_last_layer(model, encoder.encode(few), encoder)
