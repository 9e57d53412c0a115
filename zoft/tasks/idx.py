"""Reading IDX, the format of MNIST's files: a magic number, big-endian sizes, unsigned bytes."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoft.errors import DataError

__all__ = ["read_idx"]

_UNSIGNED_BYTES = 0x08  # third byte of the magic number


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Return the array in an IDX file of unsigned bytes, gzipped if its name ends in .gz.

    Args:
        path: The file.
        dimensions: How many the array must have: 3 for images, 1 for labels.

    Raises:
        DataError: The file is cut short, too long, or of another type or number of dimensions.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}. Fetch it again.") from None
    header = 4 + 4 * dimensions
    magic = bytes([0, 0, _UNSIGNED_BYTES, dimensions])
    if content[:4] != magic:
        raise DataError(
            f"{path} is not an IDX file of unsigned bytes with {dimensions} dimension(s): it starts with "
            f"{content[:4].hex() or 'nothing'}, expected {magic.hex()}."
        )
    if len(content) < header:
        raise DataError(f"{path} ends inside its header, after {len(content)} bytes. Fetch it again.")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    expected = header + int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        raise DataError(f"{path} has {len(content)} bytes; its header, shape {shape}, says {expected}. Fetch it again.")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)
