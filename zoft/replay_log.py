"""Replay: base weights plus a log are the fine-tuned weights, and how a log knows its base weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from zoft.engine import ZOEngine
from zoft.errors import ReplayError
from zoft.log_file import FORMAT_VERSION, LOG_NAME, ReplayLog
from zoft.noise import NOISE_SPEC_VERSION
from zoft.parameters import Trainable
from zoft.storage import Slot, named_slots, plain_parts, reshard
from zoft.types import StepRecord, ZOConfig

__all__ = [
    "LOG_NAME",
    "ReplayLog",
    "check_base",
    "check_upto",
    "describe",
    "engine_of",
    "fingerprint",
    "hashes",
    "make_header",
    "replay",
    "roll_forward",
]

# Settings that say how a step is computed, not what it does to the weights; a resumed run may change them.
_FREE = (
    "placement",
    "scratch_mib",
    "batched_tokens",
    "force",
    "nonfinite",
    "include",
    "exclude",
    "query_parallel_size",
    "replica_check_steps",
)


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


def make_header(engine: ZOEngine) -> dict[str, Any]:
    """Return the header of a run's log: its description and, under ``"base"``, its present weights' hashes."""
    return {**describe(engine), "base": fingerprint(engine.model)}


def describe(engine: ZOEngine) -> dict[str, Any]:
    """Describe what decides a run's updates, beside its scalars: method, parameter table and groups."""
    return {
        "format": FORMAT_VERSION,
        "noise_spec": NOISE_SPEC_VERSION,
        # Without zo_lr where it is not used: such logs are as they were before there was one.
        "config": {
            key: value
            for key, value in engine.config.to_dict().items()
            if key not in _FREE and (key, value) != ("zo_lr", None)
        },
        "num_scalars": engine.num_scalars,
        "parameters": [
            {"name": t.name, "group": group} for t, group in zip(engine.trainables, engine.group_of, strict=True)
        ],
        "weight_decays": list(engine.weight_decays),
    }


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


def roll_forward(engine: ZOEngine, records: Sequence[StepRecord], *, progress: bool = False) -> None:
    """Apply those records that are still ahead of an engine; the bar is shown on a terminal only."""
    ahead = records[engine.step :]
    for record in tqdm(ahead, desc="replay", unit="step", disable=None if progress else True):
        engine.apply(record)


def engine_of(model: nn.Module, header: dict[str, Any]) -> ZOEngine:
    """Build the engine that a log's header describes, over a model.

    Raises:
        ReplayError: If the log was made with another version of the noise.
    """
    if header["noise_spec"] != NOISE_SPEC_VERSION:
        raise ReplayError(
            f"the log has noise_spec version {header['noise_spec']}; this zoft has {NOISE_SPEC_VERSION}. Use the "
            "zoft that wrote it."
        )
    slots = named_slots(model)
    table: Sequence[dict[str, Any]] = header["parameters"]
    trainables = [Trainable(number, row["name"], slots[row["name"]]) for number, row in enumerate(table)]
    return ZOEngine(
        model, ZOConfig(**header["config"]), trainables, [row["group"] for row in table], header["weight_decays"]
    )
