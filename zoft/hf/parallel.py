"""What several processes ask of a Trainer."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard, DataLoaderShard
from torch import nn

from zoft.distributed import Replicas
from zoft.errors import ConfigError
from zoft.storage import named_slots


@contextmanager
def models_stay_bare(accelerator: Accelerator) -> Iterator[None]:
    """Within the block, Accelerate prepares models as for evaluation: not wrapped in DistributedDataParallel.

    That would hold gradient buckets as large as the trained weights, for gradients that there are not.
    """
    prepare_model = accelerator.prepare_model
    accelerator.prepare_model = functools.partial(prepare_model, evaluation_mode=True)
    try:
        yield
    finally:
        del accelerator.prepare_model


def declare_offloading(model: Any) -> None:
    """Say of a model under ``accelerate.cpu_offload`` or ``disk_offload`` that it is offloaded.

    Trainer, Accelerate and ``save_pretrained`` go by the attribute ``hf_device_map``, which only ``device_map`` and
    ``dispatch_model`` leave; without it they try to move weights that are not there.
    """
    if isinstance(model, nn.Module) and getattr(model, "hf_device_map", None) is None:
        kept = {name: "cpu" for name, slot in named_slots(model).items() if slot.keeper is not None}
        if kept:
            model.hf_device_map = kept  # type: ignore[assignment]


def share_batches(loader: Any, replicas: Replicas) -> Any:
    """Make the ranks that split a step's queries read the same batches.

    Args:
        loader: A training data loader that Accelerate has sharded over all ranks.
        replicas: The processes; groups of ``query_parallel_size`` neighbours share their batches.

    Raises:
        ConfigError: If the loader is not sharded by a batch sampler.
    """
    if replicas.query_parallel_size == 1:
        return loader
    shard = loader.batch_sampler if isinstance(loader, DataLoaderShard) else None
    if not isinstance(shard, BatchSamplerShard):
        raise ConfigError(
            f"query_parallel_size={replicas.query_parallel_size} needs a training set with a length, whose batches can "
            f"be dealt out; got a {type(loader).__name__} over a {type(loader.dataset).__name__}. Use "
            "query_parallel_size=1 (data-parallel), or load the data set whole."
        )
    shard.num_processes, shard.process_index = replicas.data_size, replicas.data_rank
    return loader
