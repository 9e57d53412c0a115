"""One pass of a model over a data set: in evaluation mode, sorted by length, shared among the processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm import tqdm

from zoft.errors import DataError
from zoft.tasks.evaluation_mode import evaluation_mode

__all__ = ["EncodedDataset", "over_batches"]

T = TypeVar("T")


class EncodedDataset(Protocol):
    """A sized, indexable data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def over_batches(
    model: nn.Module,
    dataset: EncodedDataset,
    collator: Callable[[Sequence[Any]], Mapping[str, Tensor]],
    of_batch: Callable[[nn.Module, dict[str, Tensor]], Sequence[T]],
    *,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    title: str = "evaluating",
    sizes: Sequence[int] | None = None,
) -> list[T]:
    """Return what ``of_batch`` makes of each example, in the data set's order.

    Every example is seen once, in evaluation mode, without gradients and without touching any random state. Batches are
    made of prompts of similar length, the longest first: little padding, and a batch that does not fit into memory
    fails at once. Several processes share the batches, and all get the result.

    Args:
        model: The model; its training mode is restored.
        dataset: The encoded examples.
        collator: Makes a batch of a list of examples.
        of_batch: Returns something for each example of a batch, in the batch's order.
        batch_size: Examples in a batch.
        device: Where the batches go; default: where the model's first parameter lies.
        title: What the progress bar says.
        sizes: How long each example is; default: the number of its ``input_ids``.

    Raises:
        DataError: The data set is empty.
    """
    if len(dataset) == 0:
        raise DataError("there is nothing to evaluate: the evaluation set is empty")
    target = next(model.parameters()).device if device is None else torch.device(device)
    if sizes is None:
        sizes = [len(dataset[index]["input_ids"]) for index in range(len(dataset))]
    order = sorted(range(len(dataset)), key=sizes.__getitem__, reverse=True)
    starts = range(0, len(order), batch_size)
    processes = PartialState()
    results: list[tuple[int, T]] = []
    hidden = None if processes.is_main_process else True
    bar = tqdm(total=len(order), desc=title, leave=False, disable=hidden)
    with evaluation_mode(model), torch.no_grad(), bar:
        for first in range(0, len(starts), processes.num_processes):
            # Where batches run out some process repeats the last: a sharded model needs all of them.
            mine = first + processes.process_index
            start = starts[min(mine, len(starts) - 1)]
            indices = order[start : start + batch_size]
            batch = collator([dataset[index] for index in indices])
            made = of_batch(model, {name: tensor.to(target) for name, tensor in batch.items()})
            if mine < len(starts):
                results += zip(indices, made, strict=True)
            bar.update(len(indices) * processes.num_processes)
    return [result for _, result in sorted(gather_object(results), key=lambda pair: pair[0])]
