"""Two classes of small grey images as a regression problem: what experiments on theory train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoft.errors import ConfigError, DataError, did_you_mean
from zoft.tasks.image_sources import SOURCES, IdxImages

__all__ = ["IMAGE_DATASETS", "INSTALLABLE", "SIDE", "BinaryImages", "load_binary_images", "shrink"]

SYNTHETIC = "synthetic"
IMAGE_DATASETS = (SYNTHETIC, *SOURCES)
INSTALLABLE = (SYNTHETIC, *(name for name, source in SOURCES.items() if isinstance(source, IdxImages)))
SIDE = 8  # pixels
_GREY = np.array([0.299, 0.587, 0.114])  # luma of ITU-R BT.601


@dataclass(frozen=True)
class BinaryImages:
    """A small problem.

    Attributes:
        features: ``[n, SIDE * SIDE]``: pixels, with mean 0 and variance 1 over the whole array.
        targets: ``[n]``, -1 for the first class and +1 for the second, as many of each.
    """

    features: NDArray[np.float64]
    targets: NDArray[np.float64]


def load_binary_images(
    dataset: str, *, num_examples: int, classes: Sequence[int] = (0, 1), seed: int = 0, data_dir: str | None = None
) -> BinaryImages:
    """Draw examples of two classes, grey, 8x8 (area averages), standardised.

    ``synthetic`` has no classes to choose: pixels are standard normal, and the classes' means differ by a fixed
    pattern of the length 1, so that they overlap.

    Args:
        dataset: A name in :data:`IMAGE_DATASETS`.
        num_examples: An even number >= 2.
        classes: The two labels.
        seed: Decides which examples, or what is synthesised.
        data_dir: A folder with a folder of the data set's name, with its files. None: see
            :mod:`zoft.tasks.image_sources`.

    Raises:
        AssetError: The packaged files are missing or altered.
        ConfigError: An argument is out of range.
        DataError: The data cannot be loaded or has too few examples.
    """
    if num_examples < 2 or num_examples % 2:
        raise ConfigError(f"num_examples must be an even number >= 2, got {num_examples}.")
    if len(classes) != 2 or classes[0] == classes[1]:
        raise ConfigError(f"classes must be two different labels, got {list(classes)}.")
    generator = np.random.default_rng(seed)
    if dataset == SYNTHETIC:
        pattern = generator.standard_normal(SIDE * SIDE)
        offset = 0.5 * pattern / np.linalg.norm(pattern)
        halves = [sign * offset + generator.standard_normal((num_examples // 2, SIDE * SIDE)) for sign in (-1, 1)]
    elif dataset in SOURCES:
        own = None if data_dir is None else Path(data_dir).expanduser() / dataset
        images: dict[int, list[NDArray[np.uint8]]] = {label: [] for label in classes}
        for label, image in SOURCES[dataset].rows(dataset, own, classes):
            images[label].append(image)
        halves = []
        for label in classes:
            if len(images[label]) < num_examples // 2:
                raise DataError(
                    f"{dataset} has {len(images[label])} examples of class {label}; num_examples={num_examples} needs "
                    f"{num_examples // 2}."
                )
            chosen = generator.permutation(len(images[label]))[: num_examples // 2]
            halves.append(np.stack([shrink(images[label][index]).reshape(-1) for index in chosen]))
    else:
        raise ConfigError(
            f"dataset must be one of {', '.join(IMAGE_DATASETS)}, got {dataset!r}."
            f"{did_you_mean(dataset, IMAGE_DATASETS)}"
        )
    features = np.concatenate(halves)
    features = (features - features.mean()) / features.std()
    return BinaryImages(features, np.repeat([-1.0, 1.0], num_examples // 2))


def shrink(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return an image as ``[SIDE, SIDE]`` grey values, each the mean over its area of the original.

    Args:
        image: ``[height, width]`` or ``[height, width, 3]``.
    """
    grey = image @ _GREY if image.ndim == 3 else image.astype(np.float64)
    small: NDArray[np.float64] = _area_weights(grey.shape[0]) @ grey @ _area_weights(grey.shape[1]).T
    return small


def _area_weights(size: int) -> NDArray[np.float64]:
    """Return ``[SIDE, size]``: which share of each output pixel each input pixel covers."""
    edges = np.arange(SIDE + 1) * size / SIDE
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    shares: NDArray[np.float64] = np.clip(overlap, 0.0, None) * SIDE / size
    return shares
