"""From rows to batches for models with a layer of their own for classes: texts, and images.

Shapes: B examples, L tokens. A batch holds what the model reads (``input_ids [B, L]`` and its masks, or
``pixel_values [B, ...]``), ``labels [B]``, and ``row [B]``, each example's place in its data set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import BaseImageProcessor, DataCollatorWithPadding, PreTrainedTokenizerBase

from zoft.errors import DataError
from zoft.tasks.classes import ClassTask
from zoft.tasks.image_rows import IMAGE, decode

__all__ = ["ClassEncoder", "EncodedClasses", "EncodedImages", "EncodedTexts", "ImageEncoder", "TextEncoder"]

Collator = Callable[[Sequence[Mapping[str, Any]]], dict[str, Tensor]]


class EncodedClasses(Protocol):
    """Encoded examples, usable as a ``Trainer``'s data set (with ``remove_unused_columns=False``)."""

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """What they were made of, in the same order."""

    @property
    def labels(self) -> Sequence[int]:
        """Their classes."""

    @property
    def sizes(self) -> Sequence[int]:
        """How much of a batch each takes; batches are made of examples of similar size."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


class ClassEncoder(Protocol):
    """A task made ready for a model."""

    @property
    def task(self) -> ClassTask:
        """The task."""

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> EncodedClasses:
        """Encode checked rows (see `zoft.tasks.data.load_splits`)."""

    def collator(self) -> Collator:
        """Return what makes a batch of a list of examples."""

    def show(self, row: Mapping[str, Any]) -> str:
        """Return a row as a person reads it."""


# --- texts ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodedTexts(Dataset[Mapping[str, Any]]):
    """See :class:`EncodedClasses`; ``lengths`` are those in tokens before any are cut."""

    examples: list[dict[str, Any]]
    lengths: Sequence[int]
    rows: Sequence[Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.examples[index]

    @property
    def labels(self) -> Sequence[int]:
        """Their classes."""
        return [example["labels"] for example in self.examples]

    @property
    def sizes(self) -> Sequence[int]:
        """Their lengths in tokens."""
        return [len(example["input_ids"]) for example in self.examples]


@dataclass(frozen=True)
class TextEncoder:
    """Tokenises one text column, or two as a pair; see :class:`ClassEncoder`.

    Attributes:
        task: The task.
        tokenizer: The model's; it pads.
        max_length: The longest input in tokens; None: what the tokenizer says.
    """

    task: ClassTask
    tokenizer: PreTrainedTokenizerBase
    max_length: int | None = None

    @property
    def limit(self) -> int:
        """The longest input in tokens: what the model can read at most."""
        of_model: int = self.tokenizer.model_max_length
        return of_model if self.max_length is None else min(self.max_length, of_model)

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> EncodedTexts:
        """Tokenise rows; of a pair that is too long, the longer text is cut."""
        columns = [[str(row[name]) for row in rows] for name in self.task.columns.text]
        full = self.tokenizer(*columns, truncation=False, verbose=False)["input_ids"]
        cut = self.tokenizer(*columns, truncation=True, max_length=self.limit)
        examples = [
            {**{name: cut[name][index] for name in cut}, "labels": self.task.right(row)[0], "row": index}
            for index, row in enumerate(rows)
        ]
        return EncodedTexts(examples, list(map(len, full)), rows)

    def collator(self) -> Collator:
        """Return what pads examples to the longest of the batch."""
        pad = DataCollatorWithPadding(self.tokenizer)
        return lambda examples: dict(pad([dict(example) for example in examples]))

    def show(self, row: Mapping[str, Any]) -> str:
        """Return the row's texts."""
        return "\n".join(str(row[name]) for name in self.task.columns.text)


# --- images ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodedImages(Dataset[Mapping[str, Any]]):
    """See :class:`EncodedClasses`; images are decoded when they are asked for."""

    rows: Sequence[Mapping[str, Any]]
    labels: Sequence[int]
    processor: BaseImageProcessor
    mode: str

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        image = decode(self.rows[index][IMAGE], self.mode)
        try:
            pixels = self.processor(image, return_tensors="pt")["pixel_values"][0]
        except ValueError as error:
            raise DataError(f"the model's image processor refuses an image in mode {self.mode}: {error}") from error
        return {"pixel_values": pixels, "labels": self.labels[index], "row": index}

    @property
    def sizes(self) -> Sequence[int]:
        """All the same: the processor brings images to one size."""
        return [1] * len(self)


@dataclass(frozen=True)
class ImageEncoder:
    """Prepares images as the model's image processor says; see :class:`ClassEncoder`.

    Attributes:
        task: The task.
        processor: The model's image processor.
        mode: ``L`` (grey) or ``RGB``, in which the model reads images.
    """

    task: ClassTask
    processor: BaseImageProcessor
    mode: str = "RGB"

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> EncodedImages:
        """Return the rows' images, decoded when they are asked for."""
        return EncodedImages(rows, [self.task.right(row)[0] for row in rows], self.processor, self.mode)

    def collator(self) -> Collator:
        """Return what stacks examples."""
        return _stacked

    def show(self, row: Mapping[str, Any]) -> str:
        """Return the image's file name or size."""
        stored = row[IMAGE]
        if isinstance(stored, Mapping) and stored.get("path"):
            return f"<image {stored['path']}>"
        width, height = decode(stored, self.mode).size
        return f"<image, {width} x {height} pixels>"


def _stacked(examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    facts = {name: torch.tensor([example[name] for example in examples]) for name in ("labels", "row")}
    return {"pixel_values": torch.stack([example["pixel_values"] for example in examples]), **facts}
