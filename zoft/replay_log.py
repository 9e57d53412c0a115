"""The replay log: base weights plus this file are the fine-tuned weights.

    magic (8) | header length (u32) | header CRC-32 (u32) | header (JSON) | record | record | ...

A record is ``step u32 | flags u32 | loss f32 | scalars f32[n] | lrs f32[groups] | CRC-32 u32``, little-endian
and of one size throughout the file: 24 bytes for one scalar and one parameter group. Records are appended by
a single write each, so a kill loses at most the one being written; a torn tail is recognised and cut.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from zoft.engine import ZOEngine
from zoft.errors import ReplayError
from zoft.interrupts import uninterrupted
from zoft.locked_file import LockedFile
from zoft.noise import NOISE_SPEC_VERSION
from zoft.parameters import Trainable
from zoft.types import StepRecord, ZOConfig

LOG_NAME = "zo_log"
FORMAT_VERSION = 1
_MAGIC = b"ZOFTLOG\n"
_SKIPPED = 1


# --- what the weights were -----------------------------------------------------------------------------


def fingerprint(model: nn.Module) -> dict[str, str]:
    """Return ``{parameter name: "dtype[shape] hash"}`` for every parameter of the model, trained or not."""

    def digest(item: tuple[str, nn.Parameter]) -> tuple[str, str]:
        name, parameter = item
        data = parameter.detach().contiguous().cpu().reshape(-1)
        content = hashlib.blake2b(data.view(torch.uint8).numpy().data, digest_size=16)
        return name, f"{str(parameter.dtype)[6:]}{list(parameter.shape)} {content.hexdigest()}"

    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        return dict(pool.map(digest, model.named_parameters()))


def check_base(model: nn.Module, expected: dict[str, str]) -> None:
    """Raise ReplayError, naming the first tensor that differs, unless the model's weights are as expected."""
    found = fingerprint(model)
    for name, want in expected.items():
        if name not in found:
            raise ReplayError(f"the log's base model has a parameter {name!r} that this model lacks.")
        if found[name] != want:
            raise ReplayError(
                f"this is not the log's base model: {name} differs first (log: {want}; model: {found[name]}). "
                "Load the weights that the run started from, in the same dtype."
            )
    extra = [name for name in found if name not in expected]
    if extra:
        raise ReplayError(f"this model has a parameter {extra[0]!r} that the log's base model lacks.")


# --- the file ------------------------------------------------------------------------------------------


def make_header(engine: ZOEngine) -> dict[str, Any]:
    """Describe a run before its first step: method, parameter table, groups and base weights."""
    return {
        "format": FORMAT_VERSION,
        "noise_spec": NOISE_SPEC_VERSION,
        "config": engine.config.to_dict(),
        "num_scalars": engine.num_scalars,
        "parameters": [
            {"name": t.name, "group": group} for t, group in zip(engine.trainables, engine.group_of, strict=True)
        ],
        "weight_decays": list(engine.weight_decays),
        "base": fingerprint(engine.model),
    }


class ReplayLog:
    """One run's log.

    Attributes:
        path: The file.
        header: What :func:`make_header` returned at the start of the run.
        records: All records, in order of their steps.
    """

    def __init__(
        self,
        path: Path,
        header: dict[str, Any],
        records: list[StepRecord],
        end: int,
        size: int,
        file: LockedFile | None = None,
    ) -> None:
        self.path = path
        self.header = header
        self.records = records
        self._end = end
        self._size = size  # of the file; beyond the end there is what a kill has left of a record
        self._file = file
        self._layout = _layout(header)

    @classmethod
    def create(cls, path: str | os.PathLike[str], header: dict[str, Any]) -> ReplayLog:
        """Start a new log; the header appears whole or not at all.

        An earlier log at this path is kept under ``<name>.1``, ``<name>.2``, ...

        Raises:
            ReplayError: If nothing can be written here, or another process writes the log at this path.
        """
        path = Path(path)
        text = json.dumps(header).encode()
        content = _MAGIC + struct.pack("<II", len(text), zlib.crc32(text)) + text
        draft = path.with_name(f"{path.name}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            locked = LockedFile.of(draft, create=True)
            # Held to the end, so that no run goes on with a log that is being put aside.
            earlier = LockedFile.of(path) if path.exists() else None
            with open(draft, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if earlier is not None:
                os.replace(path, _free_name(path))
            os.replace(draft, path)
        except OSError as error:
            raise ReplayError(f"no replay log can be started at {path}: {error.strerror}.") from None
        return cls(path, header, [], len(content), len(content), locked)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, to_append: bool = False) -> ReplayLog:
        """Read a log. A torn last record is left out, and cut when the log is next written.

        Args:
            path: The log.
            to_append: Keep other processes from writing it, from before it is read until it is closed.

        Raises:
            ReplayError: If there is no log here, it is damaged before its tail, or another process writes it.
        """
        path = Path(path)
        try:
            file = LockedFile.of(path) if to_append else None
            content = path.read_bytes()
        except OSError as error:
            raise ReplayError(f"no replay log can be read at {path}: {error.strerror}.") from None
        if content[:8] != _MAGIC or len(content) < 16:
            raise ReplayError(f"{path} is not a zoft replay log.")
        length, crc = struct.unpack_from("<II", content, 8)
        text = content[16 : 16 + length]
        if zlib.crc32(text) != crc:
            raise ReplayError(f"the header of the replay log {path} is damaged.")
        header = json.loads(text)
        for key, mine in (("format", FORMAT_VERSION), ("noise_spec", NOISE_SPEC_VERSION)):
            if header[key] != mine:
                raise ReplayError(
                    f"{path} has {key} version {header[key]}; this zoft reads {mine}. Use the zoft that wrote it."
                )
        records, end = _read_records(path, header, content, 16 + length)
        return cls(path, header, records, end, len(content), file)

    def append(self, record: StepRecord) -> None:
        """Write one record; it survives the process from here on.

        Raises:
            ReplayError: If the record does not follow the last one.
        """
        if record.step != len(self.records):
            raise ReplayError(f"the log ends at step {len(self.records)}; step {record.step} cannot follow it.")
        flags = _SKIPPED if record.skipped else 0
        body = self._layout.pack(record.step, flags, record.loss, *record.scalars, *record.lrs)
        content = body + struct.pack("<I", zlib.crc32(body))
        with uninterrupted():
            written = self._write(content, record.step)
            self._size = self._end + written
            if written != len(content):
                raise ReplayError(
                    f"the disk took {written} of {len(content)} bytes of step {record.step}: is it full? The weights "
                    "have not moved; make room, then resume."
                )
            self._end = self._size
            self.records.append(record)

    def _write(self, content: bytes, step: int) -> int:
        try:
            if self._file is None:
                self._file = LockedFile.of(self.path)
            descriptor = self._file.descriptor
            size = os.fstat(descriptor).st_size
            if size != self._size:
                raise ReplayError(
                    f"{self.path} has {size} bytes where this run left {self._size}: another run went on with it. "
                    "Resume from what it holds now."
                )
            if size > self._end:
                os.ftruncate(descriptor, self._end)
                self._size = self._end
            return os.pwrite(descriptor, content, self._end)
        except OSError as error:
            raise ReplayError(
                f"step {step} could not be written to {self.path}: {error.strerror}. The weights have not moved; "
                "make room or mend the disk, then resume."
            ) from None

    def flush(self) -> None:
        """Bring all records to the disk itself, so that they survive a power cut too."""
        if self._file is not None:
            os.fsync(self._file.descriptor)

    def close(self) -> None:
        """Flush to the disk, close and unlock; the log can be appended to again."""
        self.flush()
        self._file = None


def _layout(header: dict[str, Any]) -> struct.Struct:
    return struct.Struct(f"<IIf{header['num_scalars']}f{len(header['weight_decays'])}f")


def _read_records(path: Path, header: dict[str, Any], content: bytes, start: int) -> tuple[list[StepRecord], int]:
    layout, count = _layout(header), header["num_scalars"]
    size = layout.size + 4
    records: list[StepRecord] = []
    for at in range(start, len(content) - size + 1, size):
        body = content[at : at + layout.size]
        (crc,) = struct.unpack_from("<I", content, at + layout.size)
        if zlib.crc32(body) != crc:
            if at + 2 * size <= len(content):
                raise ReplayError(f"the replay log {path} is damaged at step {len(records)}, before its end.")
            break
        step, flags, loss, *rest = layout.unpack(body)
        if step != len(records):
            raise ReplayError(f"the replay log {path} holds step {step} where step {len(records)} belongs.")
        records.append(StepRecord(step, loss, tuple(rest[:count]), tuple(rest[count:]), bool(flags & _SKIPPED)))
    return records, start + len(records) * size


def _free_name(path: Path) -> Path:
    number = 1
    while path.with_name(f"{path.name}.{number}").exists():
        number += 1
    return path.with_name(f"{path.name}.{number}")


# --- replay --------------------------------------------------------------------------------------------


def replay(
    model: nn.Module, path: str | os.PathLike[str], upto_step: int | None = None, *, progress: bool = False
) -> int:
    """Turn base weights into fine-tuned weights, bit for bit, without data.

    Interrupted (Ctrl-C), it stops between two steps, and the model is at neither end: load the base afresh.

    Args:
        model: The model with the weights (and dtypes) that the run started from; changed in place.
        path: The replay log.
        upto_step: Number of steps to replay; all by default.
        progress: Whether to show a progress bar, on a terminal.

    Returns:
        The number of steps replayed.

    Raises:
        ReplayError: If the log is damaged, belongs to another base model, or is shorter than asked.
    """
    log = ReplayLog.open(path)
    wanted = check_upto(log, upto_step)
    check_base(model, log.header["base"])
    roll_forward(engine_of(model, log.header), log.records[:wanted], progress=progress)
    return wanted


def check_upto(log: ReplayLog, upto_step: int | None) -> int:
    """Return how many of a log's steps are meant; raise ReplayError if it holds fewer."""
    wanted = len(log.records) if upto_step is None else upto_step
    if not 0 <= wanted <= len(log.records):
        raise ReplayError(
            f"upto_step must be in [0, {len(log.records)}], the log's length; got {upto_step} for {log.path}."
        )
    return wanted


def branch(log: ReplayLog, steps: int, folder: str | os.PathLike[str]) -> None:
    """Start a run folder that resumes from an earlier step of a run: its log is the beginning of that run's.

    Args:
        log: The run's log.
        steps: How many of its steps the branch begins with.
        folder: A folder without a log.

    Raises:
        ReplayError: If the folder holds a log, or cannot be written.
    """
    path = Path(folder, LOG_NAME)
    if path.exists():
        raise ReplayError(f"{path} exists: a branch needs a folder of its own, or there would be two runs in one.")
    started = ReplayLog.create(path, log.header)
    for record in log.records[:steps]:
        started.append(record)
    started.close()


def roll_forward(engine: ZOEngine, records: Sequence[StepRecord], *, progress: bool = False) -> None:
    """Apply those records that are still ahead of an engine; the bar is shown on a terminal only."""
    ahead = records[engine.step :]
    for record in tqdm(ahead, desc="replay", unit="step", disable=None if progress else True):
        engine.apply(record)


def engine_of(model: nn.Module, header: dict[str, Any]) -> ZOEngine:
    """Build the engine that a log's header describes, over a model."""
    by_name = dict(model.named_parameters(remove_duplicate=False))
    table: Sequence[dict[str, Any]] = header["parameters"]
    trainables = [Trainable(number, row["name"], by_name[row["name"]]) for number, row in enumerate(table)]
    # Placement concerns evaluations only, and a replay has none.
    config = ZOConfig(**{**header["config"], "placement": "snapshot"})
    return ZOEngine(model, config, trainables, [row["group"] for row in table], header["weight_decays"])
