"""Rows with an image each: packaged sets, folders of image files, Parquet files, the Hub.

Images stay as they are stored until they are used: a set that is decoded takes many times the memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoft.errors import AssetError, ConfigError, DataError, did_you_mean
from zoft.tasks.assets import PREFIX, is_packaged
from zoft.tasks.files import is_local_file, load_folder, load_hub, load_rows
from zoft.tasks.image_sources import SOURCES, IdxImages
from zoft.tasks.places import Place, Row

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["DIGEST", "IMAGE", "PACKAGED_IMAGES", "ImageReader", "decode", "load_images"]

IMAGE, DIGEST = "image", "image digest"
"""The columns of what `ImageReader` makes of a row; equal images have one digest."""

PACKAGED_IMAGES: dict[str, IdxImages] = {
    name.replace("_", "-"): source for name, source in SOURCES.items() if isinstance(source, IdxImages)
}
"""By the NAME of ``packaged:NAME``."""


def load_images(
    source: str, config_name: str | None = None, eval_split: str | None = None
) -> tuple[list[Row], list[Row] | None]:
    """Return training rows, and evaluation rows if the source sets some apart.

    Args:
        source: ``packaged:NAME``, a folder with a folder of image files a class (under ``train``, ``test`` ... or not),
            a Parquet file, or a Hub name.
        config_name: The Hub data set's configuration.
        eval_split: The Hub data set's split with the evaluation rows.

    Raises:
        AssetError: The packaged set is unknown, missing or altered.
        DataError: The rows cannot be read.
    """
    if is_packaged(source):
        return _packaged(source)
    if Path(source).expanduser().is_dir():
        return load_folder("imagefolder", source)
    if is_local_file(source):
        return load_rows(source), None
    return load_hub(source, config_name, eval_split, as_stored=True)


def _packaged(name: str) -> tuple[list[Row], list[Row]]:
    short = name.removeprefix(PREFIX)
    if short not in PACKAGED_IMAGES:
        known = ", ".join(PREFIX + entry for entry in PACKAGED_IMAGES)
        raise AssetError(
            f"no packaged images are called {name!r}.{did_you_mean(short, PACKAGED_IMAGES)} Known: {known}"
        )
    source = PACKAGED_IMAGES[short]
    train, test = (
        [
            Row({IMAGE: image, "label": source.names[label]}, Place(f"{name}, {split} images", "row", number))
            for number, (label, image) in enumerate(source.labelled(short.replace("-", "_"), split), start=1)
        ]
        for split in ("train", "test")
    )
    return train, test


@dataclass(frozen=True)
class ImageReader:
    """Makes the columns :data:`IMAGE` and :data:`DIGEST` of a row, and keeps its label.

    Attributes:
        column: The column with the image: pixels, a file's bytes, or what ``datasets`` stores (bytes or a path).
        label: The column with the label.
    """

    column: str
    label: str

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Read a row.

        Raises:
            ConfigError: Pillow is not installed.
            DataError: The column does not hold an image.
            KeyError: There is no such column.
        """
        stored, label = row[self.column], row[self.label]
        if isinstance(stored, np.ndarray):
            content = repr(stored.shape).encode() + stored.tobytes()
        else:
            content = _content(stored, self.column)
            _open(content).close()  # reads the header alone, which tells whether it is an image at all
        return {IMAGE: stored, DIGEST: hashlib.blake2b(content, digest_size=16).hexdigest(), self.label: label}


def decode(stored: Any, mode: str) -> Image:
    """Return a stored image.

    Args:
        stored: What :data:`IMAGE` holds.
        mode: ``L`` (grey) or ``RGB``, in which the model reads it.

    Raises:
        DataError: The file is damaged.
    """
    if isinstance(stored, np.ndarray):
        return _pillow().fromarray(stored).convert(mode)  # type: ignore[no-any-return]
    image = _open(_content(stored, IMAGE))
    try:
        return image.convert(mode)
    except OSError as error:
        path = stored.get("path") if isinstance(stored, Mapping) else None
        raise DataError(f"the image {path or ''} is damaged: {error}") from None


def _content(stored: Any, column: str) -> bytes:
    """Return the bytes of an image file."""
    if isinstance(stored, Mapping) and stored.get("bytes") is None and isinstance(stored.get("path"), str):
        try:
            return Path(stored["path"]).read_bytes()
        except OSError as error:
            raise DataError(f"column {column!r}: {stored['path']} cannot be read: {error.strerror}") from None
    found = stored.get("bytes") if isinstance(stored, Mapping) else stored
    if not isinstance(found, bytes):
        raise DataError(f"column {column!r} must hold an image (the bytes of its file), got {type(stored).__name__}")
    return found


def _open(content: bytes) -> Image:
    try:
        return _pillow().open(BytesIO(content))  # type: ignore[no-any-return]
    except OSError as error:
        raise DataError(f"this is not an image file that can be read: {error}") from None


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise ConfigError("images are read with Pillow: pip install pillow") from None
    return Image
