"""Rows with images: every source gives the same pictures and classes, and what is no image is named by its row."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from tests.tasks.classifiers import pictures, write_images
from zoft.errors import AssetError, DataError
from zoft.tasks import image_rows
from zoft.tasks.data import Splits, load_splits
from zoft.tasks.image_rows import DIGEST, IMAGE, ImageReader, decode, load_images
from zoft.tasks.rows import Columns

SHADES = ("bright", "dark", "grey")


def png(pixels: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def splits(source: str, *, column: str = "image", label: str = "label", labels: Any = (), **options: Any) -> Splits:
    reader = ImageReader(column, label)
    return load_splits(
        Columns((DIGEST,), label, labels),
        dataset=source,
        prepare=reader,
        load=load_images,
        eval_fraction=0.2,
        **options,
    )


def seen(found: Splits) -> set[tuple[str, bytes]]:
    return {(row["label"], decode(row[IMAGE], "RGB").tobytes()) for row in (*found.train, *found.evaluation)}


WANTED = {(shade, pixels.tobytes()) for shade, pixels in pictures()}


# --- sources --------------------------------------------------------------------------------------------


def test_a_folder_of_image_files_has_its_folders_for_classes(tmp_path: Path) -> None:
    found = splits(write_images(tmp_path / "images"))
    assert found.labels == SHADES and len(found.evaluation) == 9
    assert seen(found) == WANTED


def test_folders_of_splits_are_splits(tmp_path: Path) -> None:
    write_images(tmp_path / "images" / "train")
    write_images(tmp_path / "images" / "test", count=6, seed=1)
    found = splits(str(tmp_path / "images"))
    assert (len(found.train), len(found.evaluation)) == (45, 6)


def test_a_parquet_file_holds_the_files_bytes(tmp_path: Path) -> None:
    rows = {
        "img": [{"bytes": png(pixels), "path": None} for _, pixels in pictures()],
        "label": [shade for shade, _ in pictures()],
    }
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "rows.parquet")
    assert seen(splits(str(tmp_path / "rows.parquet"), column="img")) == WANTED


def test_a_hub_set_gives_its_images_undecoded_and_its_classes_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(SHADES))})
    rows = {"image": [pixels for _, pixels in pictures()], "label": [shade for shade, _ in pictures()]}
    loaded = datasets.DatasetDict(train=datasets.Dataset.from_dict(rows, features=features))
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config: loaded)
    found = splits("some/pictures")
    assert found.labels == SHADES and seen(found) == WANTED
    assert set(found.train[0][IMAGE]) == {"bytes", "path"}


def test_a_packaged_set_brings_the_rows_to_measure_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = image_rows.PACKAGED_IMAGES["fashion-mnist"]
    asked = []

    def labelled(self: Any, name: str, split: str) -> Any:
        asked.append((name, split))
        yield from ((label, np.full((28, 28), 10 * label + (split == "test"), np.uint8)) for label in (0, 9, 4))

    monkeypatch.setattr(type(real), "labelled", labelled)
    found = splits("packaged:fashion-mnist")
    assert found.labels == ("T-shirt/top", "ankle boot", "coat") and sorted(asked) == [
        ("fashion_mnist", "test"),
        ("fashion_mnist", "train"),
    ]
    assert {str(row.place) for row in found.evaluation} == {
        f"packaged:fashion-mnist, test images: row {number}" for number in (1, 2, 3)
    }
    with pytest.raises(AssetError, match=r"no packaged images are called 'packaged:mnst'\. Did you mean 'mnist'"):
        splits("packaged:mnst")


# --- checks ---------------------------------------------------------------------------------------------


def test_an_image_that_is_held_out_is_not_trained_on(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    write_images(folder / "train")
    write_images(folder / "test", count=9)  # the same first nine
    found = splits(str(folder))
    assert len(found.train) == 36 and len(found.left_out["evaluation"]) == 9


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"bytes": b"no image", "path": None}, "row 2: this is not an image file that can be read"),
        ({"bytes": None, "path": "/no/such/file.png"}, "row 2: column 'image': /no/such/file.png cannot be read"),
        (
            {"bytes": None, "path": None},
            r"row 2: column 'image' must hold an image \(the bytes of its file\), got dict",
        ),
    ],
)
def test_what_is_no_image_is_named_by_its_row(image: Any, message: str, tmp_path: Path) -> None:
    good = {"bytes": png(pictures()[0][1]), "path": None}
    rows = {"image": [good, image, good], "label": ["a", "b", "a"]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=message):
        splits(str(tmp_path / "rows.parquet"))


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"column": "img"}, "row 1: there is no column 'img'"), ({"label": "lable"}, "no column 'lable'.* 'label'")],
)
def test_a_column_that_is_not_there_is_named(columns: Any, message: str, tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"image": [b"x"], "label": ["a"]}).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=message):
        splits(str(tmp_path / "rows.parquet"), **{"labels": ("a", "b") if "column" in columns else (), **columns})


def test_a_damaged_image_says_which(tmp_path: Path) -> None:
    content = png(pictures()[0][1])
    file = tmp_path / "cut.png"
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"the image .*cut\.png is damaged"):
        decode({"bytes": None, "path": str(file)}, "RGB")


def test_grey_models_see_grey_and_others_colours() -> None:
    grey, coloured = np.full((4, 4), 7, np.uint8), np.full((4, 4, 3), 7, np.uint8)
    for pixels in (grey, coloured):
        assert decode(pixels, "L").mode == "L" and decode(pixels, "RGB").mode == "RGB"
        assert decode(png(pixels), "RGB").getpixel((0, 0)) == (7, 7, 7)
