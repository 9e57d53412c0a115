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
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoft.engine import ZOEngine
from zoft.errors import ReplayError
from zoft.interrupts import uninterrupted
from zoft.noise import NOISE_SPEC_VERSION
from zoft.parameters import Trainable
from zoft.storage import Slot, named_slots, plain_parts, reshard
from zoft.types import StepRecord, ZOConfig

FORMAT_VERSION = 1
_MAGIC = b"ZOFTLOG\n"
# Settings that say how a step is computed, not what it does to the weights; a resumed run may change them.
_FREE = (
    "placement",
    "scratch_mib",
    "force",
    "nonfinite",
    "include",
    "exclude",
    "query_parallel_size",
    "replica_check_steps",
)
_SKIPPED = 1


# --- what the weights were -----------------------------------------------------------------------------


def fingerprint(model: nn.Module) -> dict[str, str]:
    """Return ``{parameter name: "dtype[shape] hash"}`` for every parameter of the model, trained or not.

    Of tied parameters the first name stands for all. If the model is sharded, all processes must call this.
    """
    reshard(model)
    first: dict[object, tuple[str, Slot]] = {}
    for name, slot in named_slots(model).items():
        first.setdefault(slot.identity(), (name, slot))
    return hashes(dict(first.values()))


def hashes(slots: Mapping[str, Slot]) -> dict[str, str]:
    """Return the hash of each named weight; see :func:`fingerprint`."""

    def digest(item: tuple[str, torch.Tensor]) -> tuple[str, str]:
        name, weight = item
        content = hashlib.blake2b(digest_size=16)
        for part in plain_parts(weight.detach()):
            content.update(part.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
        return name, f"{str(weight.dtype)[6:]}{list(weight.shape)} {content.hexdigest()}"

    weights = ((name, slot.whole()) for name, slot in slots.items())
    if any(slot.is_sharded for slot in slots.values()):
        # One at a time: a gathered copy should be gone before the next is made.
        return dict(map(digest, weights))
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        return dict(pool.map(digest, weights))


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
    """Return the header of a run's log: its description and, under ``"base"``, its present weights' hashes."""
    return {**describe(engine), "base": fingerprint(engine.model)}


def describe(engine: ZOEngine) -> dict[str, Any]:
    """Describe what decides a run's updates, beside its scalars: method, parameter table and groups."""
    return {
        "format": FORMAT_VERSION,
        "noise_spec": NOISE_SPEC_VERSION,
        "config": {key: value for key, value in engine.config.to_dict().items() if key not in _FREE},
        "num_scalars": engine.num_scalars,
        "parameters": [
            {"name": t.name, "group": group} for t, group in zip(engine.trainables, engine.group_of, strict=True)
        ],
        "weight_decays": list(engine.weight_decays),
    }


class ReplayLog:
    """One run's log.

    Attributes:
        path: The file.
        header: What :func:`make_header` returned at the start of the run.
        records: All records, in order of their steps.
    """

    def __init__(self, path: Path, header: dict[str, Any], records: list[StepRecord], end: int) -> None:
        self.path = path
        self.header = header
        self.records = records
        self._end = end
        self._descriptor: int | None = None
        self._layout = _layout(header)

    @classmethod
    def create(cls, path: str | os.PathLike[str], header: dict[str, Any]) -> ReplayLog:
        """Start a new log; the header appears whole or not at all.

        An earlier log at this path is kept under ``<name>.1``, ``<name>.2``, ...
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            os.replace(path, _free_name(path))
        text = json.dumps(header).encode()
        content = _MAGIC + struct.pack("<II", len(text), zlib.crc32(text)) + text
        draft = path.with_name(f"{path.name}.new")
        with open(draft, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        return cls(path, header, [], len(content))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ReplayLog:
        """Read a log. A torn last record is left out, and cut when the log is next written.

        Raises:
            ReplayError: If there is no log here, or it is damaged before its tail.
        """
        path = Path(path)
        try:
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
        return cls(path, header, records, end)

    def append(self, record: StepRecord) -> None:
        """Write one record; it survives the process from here on.

        Raises:
            ReplayError: If the record does not follow the last one.
        """
        if record.step != len(self.records):
            raise ReplayError(f"the log ends at step {len(self.records)}; step {record.step} cannot follow it.")
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_WRONLY)
            os.ftruncate(self._descriptor, self._end)
        flags = _SKIPPED if record.skipped else 0
        body = self._layout.pack(record.step, flags, record.loss, *record.scalars, *record.lrs)
        content = body + struct.pack("<I", zlib.crc32(body))
        with uninterrupted():
            written = os.pwrite(self._descriptor, content, self._end)
            if written != len(content):
                raise ReplayError(f"the disk took {written} of {len(content)} bytes of step {record.step}: is it full?")
            self._end += written
            self.records.append(record)

    def close(self) -> None:
        """Flush to the disk and close; the log can be appended to again."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None


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


def replay(model: nn.Module, path: str | os.PathLike[str], upto_step: int | None = None) -> int:
    """Turn base weights into fine-tuned weights, bit for bit, without data.

    Args:
        model: The model with the weights (and dtypes) that the run started from; changed in place.
        path: The replay log.
        upto_step: Number of steps to replay; all by default.

    Returns:
        The number of steps replayed.

    Raises:
        ReplayError: If the log is damaged, belongs to another base model, or is shorter than asked.
    """
    log = ReplayLog.open(path)
    wanted = len(log.records) if upto_step is None else upto_step
    if not 0 <= wanted <= len(log.records):
        raise ReplayError(f"upto_step must be in [0, {len(log.records)}], the log's length; got {upto_step}.")
    check_base(model, log.header["base"])
    engine = engine_of(model, log.header)
    for record in log.records[:wanted]:
        engine.apply(record)
    return wanted


def engine_of(model: nn.Module, header: dict[str, Any]) -> ZOEngine:
    """Build the engine that a log's header describes, over a model."""
    slots = named_slots(model)
    table: Sequence[dict[str, Any]] = header["parameters"]
    trainables = [Trainable(number, row["name"], slots[row["name"]]) for number, row in enumerate(table)]
    # Placement concerns evaluations only, and a replay has none.
    config = ZOConfig(**{**header["config"], "placement": "snapshot"})
    return ZOEngine(model, config, trainables, [row["group"] for row in table], header["weight_decays"])
