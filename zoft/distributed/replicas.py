"""The processes of a run. Each has the same weights and takes the same step; they differ in what they evaluate.

*Data-parallel*: every process evaluates all points on its own part of the batch. *Query-parallel*: processes see
the same batch and evaluate different queries. *Hybrid*: groups of ``query_parallel_size`` neighbouring ranks share
a batch, and the groups have different ones. In each case the step's scalars are the mean of the processes'
scalars, so one small gather a step is all that is sent, and there is nothing that a method must know about it.

Processes are started, and their process group is made, by others: ``accelerate launch``, ``torchrun``, or the user.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from zoft.errors import ConfigError, DistributedError, ZoftError
from zoft.estimators import Share

T = TypeVar("T")


@dataclass(frozen=True)
class Replicas:
    """This process's place among the processes of the run.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
        query_parallel_size: How many neighbouring ranks share a batch and split a step's queries.
    """

    rank: int
    size: int
    query_parallel_size: int

    @classmethod
    def current(cls, query_parallel_size: int = 1) -> Replicas:
        """Describe the default process group; without one, a run of one process.

        Raises:
            ConfigError: If the processes cannot be parted into groups of ``query_parallel_size``.
        """
        rank, size = 0, 1
        if dist.is_available() and dist.is_initialized():
            rank, size = dist.get_rank(), dist.get_world_size()
        if size % query_parallel_size:
            raise ConfigError(
                f"query_parallel_size={query_parallel_size} does not divide the number of processes, {size}. "
                "Each group of query_parallel_size processes shares one batch."
            )
        return cls(rank, size, query_parallel_size)

    @property
    def share(self) -> Share:
        """Which of a step's points this process evaluates, on which part of the data."""
        return Share(self.rank % self.query_parallel_size, self.query_parallel_size, self.data_rank, self.data_size)

    @property
    def data_rank(self) -> int:
        """Which part of the data this process reads."""
        return self.rank // self.query_parallel_size

    @property
    def data_size(self) -> int:
        """Number of parts of the data."""
        return self.size // self.query_parallel_size

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes the log."""
        return self.rank == 0

    def mean(self, values: Sequence[float], same: Mapping[str, float] = MappingProxyType({})) -> list[float]:
        """Return the mean over processes of each value: the same bits on every one.

        The sums are exact before they are rounded (``math.fsum``), so they do not depend on the order of the
        ranks, nor on how a backend reduces.

        Args:
            values: This process's values, equally many on each.
            same: Numbers that must not differ between processes, by name; they are sent along.

        Raises:
            DistributedError: If another process is gone, or a number of ``same`` differs.
        """
        if self.size == 1:
            return list(values)
        columns = self._columns([*values, *same.values()], torch.float64)
        _check_column(same, columns[len(values) :])
        columns = columns[: len(values)]
        return [math.fsum(c) / self.size if all(map(math.isfinite, c)) else math.nan for c in columns]

    def total(self, values: Sequence[int], same: Mapping[str, float] = MappingProxyType({})) -> list[int]:
        """Return the sum over processes of each integer, on every one. See :meth:`mean`."""
        if self.size == 1:
            return list(values)
        _check_column(same, self._columns(list(same.values()), torch.float64))
        return [sum(column) for column in self._columns(values, torch.int64)]

    def _columns(self, values: Sequence[float], dtype: torch.dtype) -> list[list[Any]]:
        """Return, for each place in ``values``, what all processes have there."""
        columns: list[list[Any]] = torch.stack(self._gathered(torch.tensor(values, dtype=dtype)), dim=1).tolist()
        return columns

    def _gathered(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Return every process's tensor, in order of rank; all have one shape."""
        mine = tensor.to(_device())
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        _collective(lambda: dist.all_gather(everyone, mine))
        return everyone

    def from_first(self, make: Callable[[], T]) -> T:
        """Run a function on the first process only and return its result, or raise its error, on all of them.

        Args:
            make: Returns something that can be pickled.

        Raises:
            ZoftError: What the function raised.
            DistributedError: If another process is gone.
        """
        if self.size == 1:
            return make()
        box: list[Any] = [None]
        if self.is_first:
            try:
                box = [(make(), None)]
            except (ZoftError, OSError) as error:
                box = [(None, error)]
        _collective(lambda: dist.broadcast_object_list(box, src=0, device=_device()))
        value: T
        value, raised = box[0]
        if raised is not None:
            raise raised
        return value

    def check_same(self, table: dict[str, str], what: str, advice: str) -> None:
        """Make sure that a table is the same on all processes; eight bytes are sent unless it is not.

        Args:
            table: A description (of a setting, of a weight) for each name.
            what: What the table describes, and when, for the message.
            advice: What to do if it differs.

        Raises:
            DistributedError: If some entry differs; names the first one and the ranks.
        """
        if self.size == 1:
            return
        digest = hashlib.blake2b(repr(sorted(table.items())).encode(), digest_size=8).digest()
        everyone = self._gathered(torch.tensor(list(digest), dtype=torch.uint8))
        if all(torch.equal(other, everyone[0]) for other in everyone):
            return
        tables: list[Any] = [None] * self.size
        _collective(lambda: dist.all_gather_object(tables, table))
        for rank, other in enumerate(tables):
            different = [name for name in {**tables[0], **other} if other.get(name) != tables[0].get(name)]
            if different:
                name = different[0]
                raise DistributedError(
                    f"the processes do not have the same {what}: {name} differs first (rank 0: "
                    f"{tables[0].get(name, 'lacks it')}; rank {rank}: {other.get(name, 'lacks it')}), "
                    f"{len(different)} of {len(tables[0])} in all. {advice}"
                )


def _check_column(same: Mapping[str, float], columns: Sequence[Sequence[float]]) -> None:
    """Raise DistributedError, naming the first number that is not the same on all processes."""
    for name, column in zip(same, columns, strict=True):
        other = next((rank for rank, value in enumerate(column) if value != column[0]), None)
        if other is not None:
            raise DistributedError(
                f"the processes do not have the same {name}: {column[0]} on rank 0, {column[other]} on rank {other}. "
                "Their weights would part: give every process the same learning rate and schedule."
            )


def _device() -> torch.device:
    """Where tensors must be that the process group can send."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def _collective(operation: Callable[[], Any]) -> None:
    try:
        operation()
    except RuntimeError as error:
        raise DistributedError(
            f"another process of this run has ended or cannot be reached; its own output says why. ({error}) Every "
            "finished step is in the replay log: resume from it, with any number of processes."
        ) from error
