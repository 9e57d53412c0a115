"""Reading rows: packaged data sets, local files, the Hub. Nothing here knows about prompts or splits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from zoft.errors import DataError, did_you_mean
from zoft.tasks.assets import is_packaged, load_packaged_dataset
from zoft.tasks.csv_rows import read_csv, read_tsv
from zoft.tasks.json_rows import read_json, read_jsonl
from zoft.tasks.places import Place, Row
from zoft.tasks.plain_text import known_kind

__all__ = ["Row", "is_local_file", "load_folder", "load_hub", "load_rows", "load_source"]

_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
EVAL_SPLITS = ("validation", "test")  # in this order: a test split's labels are often withheld


def load_rows(source: str) -> list[Row]:
    """Return all rows of a packaged data set or of one local file.

    Args:
        source: ``packaged:NAME``, or a path ending in .jsonl, .json, .csv, .tsv or .parquet.

    Raises:
        AssetError: The packaged data set is unknown, missing or altered.
        DataError: The file does not exist, is of no known type, is damaged (the line is named), or has no
            rows.
    """
    if is_packaged(source):
        return _numbered(load_packaged_dataset(source), source)
    path = Path(source).expanduser()
    if path.is_dir():
        raise DataError(f"{source}: this is a folder; name a file in it that ends in {', '.join(_READERS)}")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{source}: expected a file ending in {', '.join(_READERS)}, got {path.suffix or 'no suffix'!r}."
            f"{did_you_mean(path.suffix.lower(), _READERS)}"
            f"{' Unpack it first.' if path.suffix.lower() in _PACKED else ''}"
        )
    if not path.is_file():
        raise DataError(f"{source}: there is no such file (looked in {Path.cwd()})")
    try:
        rows = reader(path)
    except OSError as error:
        raise DataError(f"{source}: the file cannot be read: {error.strerror}") from None
    if not rows:
        raise DataError(f"{source}: the file has no rows")
    return rows


def is_local_file(source: str) -> bool:
    """Whether ``source`` names a local file (by its suffix) rather than a data set on the Hub."""
    path = Path(source).expanduser()
    return path.suffix.lower() in _READERS or path.exists()


def load_source(
    source: str, config_name: str | None = None, eval_split: str | None = None, *, as_stored: bool = False
) -> tuple[list[Row], list[Row] | None]:
    """Return the training rows of any source, and its evaluation rows if it sets some apart: see `load_hub`.

    Args:
        source: ``packaged:NAME``, a local file, or a Hub name.
        config_name: The Hub data set's configuration.
        eval_split: The Hub data set's split with the evaluation rows.
        as_stored: See `load_hub`.
    """
    if is_packaged(source) or is_local_file(source):
        return load_rows(source), None
    return load_hub(source, config_name, eval_split, as_stored=as_stored)


def load_hub(
    name: str, config_name: str | None = None, eval_split: str | None = None, *, as_stored: bool = False
) -> tuple[list[Row], list[Row] | None]:
    """Return the training rows of a data set on the Hub, and its evaluation rows if it has a split for them.

    Args:
        name: The data set.
        config_name: Its configuration.
        eval_split: The split with the evaluation rows; default: ``validation``, else ``test``.
        as_stored: Leave images undecoded, and give classes the names that the data set has for them.

    Raises:
        DataError: The data set cannot be loaded, or has no such split, or none called ``train``.
    """
    import datasets  # a slow import that local files do not need

    try:
        loaded = datasets.load_dataset(name, config_name)
    except (OSError, ValueError, RuntimeError) as error:  # not found, no network, unknown config, a loading script
        raise DataError(
            f"the data set {name!r} could not be loaded from the Hub: {_one_line(error)}. Without network, "
            "name a local file (.jsonl, .csv, .parquet ...) or packaged:rotten-tomatoes; of images a folder of "
            "files, or packaged:mnist"
        ) from error
    return _splits(loaded, name, eval_split, _stored if as_stored else _plain)


def load_folder(builder: str, source: str) -> tuple[list[Row], list[Row] | None]:
    """Return the rows of a folder that a builder of ``datasets`` reads, images undecoded and classes by name.

    Args:
        builder: Its name, for example ``imagefolder``.
        source: The folder.

    Raises:
        DataError: The folder is not as the builder expects it.
    """
    import datasets

    try:
        loaded = datasets.load_dataset(builder, data_dir=str(Path(source).expanduser()))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{source} could not be read as {builder}: {_one_line(error)}") from error
    return _splits(loaded, source, None, _stored)


def _splits(
    loaded: Any, name: str, eval_split: str | None, rows_of: Callable[[Any], list[dict[str, Any]]]
) -> tuple[list[Row], list[Row] | None]:
    for split in ("train", *([] if eval_split is None else [eval_split])):
        if split not in loaded:
            raise DataError(f"the data set {name!r} has no split {split!r}; found: {', '.join(map(str, loaded))}")
    held_out = eval_split or next((split for split in EVAL_SPLITS if split in loaded), None)

    def rows(split: str) -> list[Row]:
        return _numbered(rows_of(loaded[split]), f"{name}, {split} split")

    return rows("train"), rows(held_out) if held_out else None


def _plain(split: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = split.to_list()
    return rows


def _stored(split: Any) -> list[dict[str, Any]]:
    """Return rows with undecoded images, and with the names of classes; what is no class (-1: withheld) stays."""
    import datasets

    for column, feature in split.features.items():
        if isinstance(feature, datasets.Image):
            split = split.cast_column(column, datasets.Image(decode=False))
    names = {
        column: dict(enumerate(feature.names))
        for column, feature in split.features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    return [{**row, **{column: of[row[column]] for column, of in names.items() if row[column] in of}} for row in split]


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        with path.open("rb") as file:
            beginning = file.read(4)
        if beginning != b"PAR1" and (kind := known_kind(beginning)) is not None:
            raise DataError(f"{path}: this is {kind}") from None
        raise DataError(f"{path} is not a Parquet file that can be read: {_one_line(error)}") from None
    return _numbered(table.to_pylist(), str(path))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _numbered(rows: Iterable[Mapping[str, Any]], source: str) -> list[Row]:
    return [Row(row, Place(source, "row", number)) for number, row in enumerate(rows, start=1)]


_READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": _read_parquet,
}
