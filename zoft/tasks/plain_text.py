"""Text files as text: what is not UTF-8 is refused with its line, or by the name of what it is."""

from __future__ import annotations

from pathlib import Path

from zoft.errors import DataError

__all__ = ["known_kind", "read_text"]

# Telling beginnings of files that are often found under a text file's name.
KNOWN_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "compressed with gzip; unpack it first (gunzip)"),
    (b"BZh", "compressed with bzip2; unpack it first (bunzip2)"),
    (b"\xfd7zXZ", "compressed with xz; unpack it first (unxz)"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard; unpack it first (unzstd)"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet; unpack it, or save the sheet as CSV in UTF-8"),
    (b"PAR1", "a Parquet file; let its name end in .parquet"),
    (b"\xff\xfe\0\0", "UTF-32 text; save it as UTF-8 (iconv -f UTF-32 -t UTF-8)"),  # begins as UTF-16 does
    (b"\0\0\xfe\xff", "UTF-32 text; save it as UTF-8 (iconv -f UTF-32 -t UTF-8)"),
    (b"\xff\xfe", "UTF-16 text; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"),
    (b"\xfe\xff", "UTF-16 text; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"),
)


def known_kind(beginning: bytes) -> str | None:
    """Return what a file is that begins so, and what to do about it; None: nothing that is known."""
    return next((kind for start, kind in KNOWN_BEGINNINGS if beginning.startswith(start)), None)


def read_text(path: Path) -> str:
    """Return a file's text, without a byte order mark; line ends stay as they are.

    Raises:
        DataError: The file is of another kind, holds a NUL, or is not UTF-8; the line is named.
        OSError: It cannot be read.
    """
    content = path.read_bytes()
    if (kind := known_kind(content)) is not None:
        raise DataError(f"{path}: this is {kind}")
    if (nul := content.find(b"\0")) >= 0:
        raise DataError(
            f"{path}: line {_line(content, nul)} holds a NUL byte: the file is damaged, or is no text in UTF-8"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        rest: bytes = error.object  # without the byte order mark
        raise DataError(
            f"{path}: line {_line(rest, error.start)} is not UTF-8 text (byte 0x{rest[error.start]:02x}); if it was "
            "saved in another encoding, convert it, for example: iconv -f WINDOWS-1252 -t UTF-8"
        ) from None


def _line(content: bytes, position: int) -> int:
    return content.count(b"\n", 0, position) + 1
