"""Held-out accuracy and loss of a prompted classifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypedDict

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm import tqdm

from zoft.errors import DataError, NonFiniteLossError

__all__ = ["ClassificationScores", "evaluate_prompted"]


class ClassificationScores(TypedDict):
    """What an evaluation reports.

    ``majority_share`` is the accuracy of always saying the commonest class. ``class_accuracy`` holds one
    share a class, None for a class without examples: a model that always says one word shows here.
    """

    accuracy: float
    loss: float  # mean cross-entropy over the options, in nats
    n: int
    majority_share: float
    class_accuracy: list[float | None]


class EncodedDataset(Protocol):
    """A sized, indexable data set whose examples have ``input_ids``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def evaluate_prompted(
    model: nn.Module,
    dataset: EncodedDataset,
    collator: Callable[[Sequence[Any]], Mapping[str, Tensor]],
    option_scores: Callable[[nn.Module, Mapping[str, Tensor]], Tensor],
    *,
    batch_size: int = 32,
    device: torch.device | str | None = None,
) -> ClassificationScores:
    """Score every example once, in eval mode, without gradients and without touching any random state.

    Batches are made of prompts of similar length, the longest first: little padding, and a batch that does
    not fit into memory fails at once. Several processes share the batches, and all get the result.

    Args:
        model: The language model; its training mode is restored.
        dataset: The encoded examples.
        collator: Makes a batch with ``labels [B]`` of a list of examples.
        option_scores: Returns the options' scores, [B, O], such as `zoft.tasks.prompted.option_scores`.
        batch_size: Examples in a batch.
        device: Where the batches go; default: where the model's first parameter lies.

    Raises:
        DataError: The data set is empty.
        NonFiniteLossError: The model's scores are not finite.
    """
    if len(dataset) == 0:
        raise DataError("there is nothing to evaluate: the evaluation set is empty")
    target = next(model.parameters()).device if device is None else torch.device(device)
    order = sorted(range(len(dataset)), key=lambda index: len(dataset[index]["input_ids"]), reverse=True)
    starts = range(0, len(order), batch_size)
    processes = PartialState()
    results: list[tuple[Tensor, Tensor]] = []
    was_training = [module for module in model.modules() if module.training]
    model.eval()
    hidden = None if processes.is_main_process else True
    try:
        with torch.no_grad(), tqdm(total=len(order), desc="evaluating", leave=False, disable=hidden) as bar:
            for first in range(0, len(starts), processes.num_processes):
                # Where batches run out some process repeats the last: a sharded model needs all of them.
                mine = first + processes.process_index
                start = starts[min(mine, len(starts) - 1)]
                batch = collator([dataset[index] for index in order[start : start + batch_size]])
                moved = {name: tensor.to(target) for name, tensor in batch.items()}
                scores = option_scores(model, moved).float().cpu()
                if mine < len(starts):
                    results.append((scores, batch["labels"]))
                bar.update(len(batch["labels"]) * processes.num_processes)
    finally:
        for module in was_training:
            module.training = True
    scores_by_batch, labels_by_batch = zip(*gather_object(results), strict=True)
    return _summarise(torch.cat(scores_by_batch), torch.cat(labels_by_batch))


def _summarise(scores: Tensor, labels: Tensor) -> ClassificationScores:
    """Reduce scores [n, O] and classes [n] to the report."""
    loss = nn.functional.cross_entropy(scores, labels).item()
    if not math.isfinite(loss):
        raise NonFiniteLossError(
            f"the evaluation loss is {loss} over {len(labels)} examples: the model's outputs are not finite. "
            "Lower the learning rate, or load the model in float32"
        )
    correct = scores.argmax(1) == labels
    counts = torch.bincount(labels, minlength=scores.shape[1])
    hits = torch.bincount(labels[correct], minlength=scores.shape[1])
    return ClassificationScores(
        accuracy=correct.float().mean().item(),
        loss=loss,
        n=len(labels),
        majority_share=counts.max().item() / len(labels),
        class_accuracy=[
            hit / count if count else None for hit, count in zip(hits.tolist(), counts.tolist(), strict=True)
        ],
    )
