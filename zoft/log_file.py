"""The replay log as a file: base weights plus this file are the fine-tuned weights.

    magic (8) | header length (u32) | header CRC-32 (u32) | header (JSON) | record | record | ...

A record is ``step u32 | flags u32 | loss f32 | scalars f32[n] | lrs f32[groups] | probe f32[0 or 3] | CRC-32 u32``,
little-endian and of one size throughout the file: 24 bytes for one scalar and one parameter group (the probe is
there with zo_lr="auto" only). Records are appended by a single write each, so a kill loses at most the one being
written; a torn tail is recognised and cut. This module imports no torch, so that looking at logs is quick.

The log of a private run is its ledger too. Before a step's batch is looked at, an intent is written, a record that
holds nothing but the step: from then on the step is paid for, whatever becomes of it.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

from zoft.errors import ReplayError
from zoft.interrupts import uninterrupted
from zoft.locked_file import LockedFile
from zoft.types import NUM_PROBES, StepRecord

LOG_NAME = "zo_log"
FORMAT_VERSION = 1
_MAGIC = b"ZOFTLOG\n"
_SKIPPED = 1
_INTENT = 2


class ReplayLog:
    """One run's log.

    Attributes:
        path: The file.
        header: What :func:`zoft.replay_log.make_header` returned at the start of the run.
        records: All records of steps, in order.
        intents: How many intents it holds; 0 unless the run is private.
    """

    def __init__(
        self,
        path: Path,
        header: dict[str, Any],
        records: list[StepRecord],
        end: int,
        size: int,
        file: LockedFile | None = None,
        intents: int = 0,
    ) -> None:
        self.path = path
        self.header = header
        self.records = records
        self.intents = intents
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
                os.replace(path, free_name(path))
            os.replace(draft, path)
            _flush_folder(path.parent)  # or a power cut could leave the log under its draft's name, to be overwritten
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
        if header["format"] != FORMAT_VERSION:
            raise ReplayError(
                f"{path} has format version {header['format']}; this zoft reads {FORMAT_VERSION}. Use the zoft that "
                "wrote it."
            )
        records, intents, end = _read_records(path, header, content, 16 + length)
        return cls(path, header, records, end, len(content), file, intents)

    def append(self, record: StepRecord) -> None:
        """Write one record; it survives the process from here on.

        Raises:
            ReplayError: If the record does not follow the last one.
        """
        if record.step != len(self.records):
            raise ReplayError(f"the log ends at step {len(self.records)}; step {record.step} cannot follow it.")
        flags = _SKIPPED if record.skipped else 0
        with uninterrupted():
            self._add(record.step, flags, record.loss, *record.scalars, *record.lrs, *record.probe)
            self.records.append(record)

    def intend(self) -> None:
        """Write that the next step is about to be taken, and bring that to the disk itself."""
        floats = (self._layout.size - 8) // 4
        with uninterrupted():
            self._add(len(self.records), _INTENT, *[0.0] * floats)
            self.intents += 1
        self.flush()

    def _add(self, step: int, *fields: float) -> None:
        body = self._layout.pack(step, *fields)
        content = body + struct.pack("<I", zlib.crc32(body))
        written = self._write(content, step)
        self._size = self._end + written
        if written != len(content):
            raise ReplayError(
                f"the disk took {written} of {len(content)} bytes of step {step}: is it full? The weights have not "
                "moved; make room, then resume."
            )
        self._end = self._size

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
        """Bring all records to the disk itself, so that they survive a power cut too.

        Raises:
            ReplayError: If the disk fails.
        """
        if self._file is None:
            return
        try:
            os.fsync(self._file.descriptor)
        except OSError as error:
            raise ReplayError(
                f"{self.path} could not be brought to the disk: {error.strerror}. Mend the disk, then resume."
            ) from None

    def close(self) -> None:
        """Flush to the disk, close and unlock; the log can be appended to again."""
        self.flush()
        self._file = None


def _layout(header: dict[str, Any]) -> struct.Struct:
    probes = NUM_PROBES if header["config"].get("zo_lr") == "auto" else 0
    return struct.Struct(f"<IIf{header['num_scalars']}f{len(header['weight_decays'])}f{probes}f")


def _read_records(path: Path, header: dict[str, Any], content: bytes, start: int) -> tuple[list[StepRecord], int, int]:
    layout, count = _layout(header), header["num_scalars"]
    groups = len(header["weight_decays"])
    size = layout.size + 4
    records: list[StepRecord] = []
    intents, end = 0, start
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
        end = at + size
        if flags & _INTENT:
            intents += 1
            continue
        scalars, lrs, probe = rest[:count], rest[count : count + groups], rest[count + groups :]
        records.append(StepRecord(step, loss, tuple(scalars), tuple(lrs), bool(flags & _SKIPPED), tuple(probe)))
    return records, intents, end


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_name(path: Path) -> Path:
    """Return the name under which a file makes way for another: ``<name>.1``, or the first that is free."""
    number = 1
    while path.with_name(f"{path.name}.{number}").exists():
        number += 1
    return path.with_name(f"{path.name}.{number}")


def branch(log: ReplayLog, steps: int, folder: str | os.PathLike[str]) -> None:
    """Start a run folder that resumes from an earlier step of a run: its log is the beginning of that run's.

    What a private run has spent, it has spent: the branch begins with all of its intents.

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
    for _ in range(log.intents):
        started.intend()
    for record in log.records[:steps]:
        started.append(record)
    started.close()
