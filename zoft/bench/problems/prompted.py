"""A language model that is prompted for a text's class, as ``zoft-train`` does it; by default, of film reviews."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from zoft.bench.problems.classification import Classification, Split, flip_labels
from zoft.bench.problems.texts import load_texts
from zoft.bench.problems.trained import select_trained
from zoft.checks import check_choice, check_count, check_share
from zoft.tasks.assets import is_packaged, resolve_model
from zoft.tasks.encoding import EncodedPrompts, PromptEncoder
from zoft.tasks.prompt_batches import PromptedCollator
from zoft.tasks.prompted import PromptedTask
from zoft.tasks.scoring import option_scores
from zoft.tasks.template import MASK

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Prompted:
    """Options of a prompted problem.

    Attributes:
        model: A causal language model, or with ``[MASK]`` in the template a masked one, as ``zoft-train`` names it.
        train: ``full``, ``lora`` or a pattern of parameter names.
        dtype: Of the weights: float32, bfloat16 or float16.
        template: The prompt, around the data's columns.
        label_words: What the classes are called.
        labels: The data's labels, in the order of ``label_words``; by default 0, 1, ...
        dataset: What is trained on.
        shifted: What the ``shifted`` split is made of; null where nothing else has these labels.
        train_rows: Rows to train on.
        eval_rows: Rows of each of the other splits.
        label_noise: Share of training labels that are made wrong, in [0, 1).
        max_length: Tokens after which a text is cut.
        batch_size: Rows of one step.
    """

    model: str = "packaged:smollm2-135m-instruct"
    train: str = "full"
    dtype: str = "float32"
    template: str = "Review: {text}\nOverall, the movie was"
    label_words: tuple[str, ...] = ("boring", "excellent")
    labels: tuple[str, ...] | None = None
    dataset: str = "packaged:rotten-tomatoes"
    shifted: str | None = "packaged:imdb"
    train_rows: int = 1000
    eval_rows: int = 200
    label_noise: float = 0.0
    max_length: int = 64
    batch_size: int = 16

    def __post_init__(self) -> None:
        check_share("label_noise", self.label_noise)
        check_count("batch_size", self.batch_size)
        check_choice("dtype", self.dtype, DTYPES)
        _ = self.task

    @property
    def task(self) -> PromptedTask:
        """How a row becomes a prompt and options."""
        return PromptedTask(self.template, self.label_words, self.labels)

    def build(self, seed: int, device: torch.device) -> Classification:
        """See :class:`zoft.bench.problems.Task`."""
        folder = str(resolve_model(self.model)) if is_packaged(self.model) else self.model
        loader = AutoModelForMaskedLM if MASK in self.template else AutoModelForCausalLM
        loaded = loader.from_pretrained(folder, dtype=DTYPES[self.dtype])
        model = select_trained(loaded, self.train, seed).to(device)
        encoded, collator = _encode(self, folder)
        splits = {}
        for name, prompts in encoded.items():
            labels = torch.tensor([example["label"] for example in prompts.examples])
            if name == "train":
                labels = flip_labels(labels, self.label_noise, len(self.label_words), seed)
            splits[name] = Split(labels, _Batches(prompts, collator, device))
        return Classification(
            model,
            lambda batch: option_scores(model, batch),
            splits,
            classes=len(self.label_words),
            batch_size=self.batch_size,
        )


@dataclass(frozen=True)
class _Batches:
    prompts: EncodedPrompts
    collator: PromptedCollator
    device: torch.device

    def __call__(self, rows: Tensor) -> dict[str, Tensor]:
        batch = self.collator([self.prompts[row] for row in rows.tolist()])
        return {name: tensor.to(self.device) for name, tensor in batch.items()}


@cache
def _encode(options: Prompted, folder: str) -> tuple[dict[str, EncodedPrompts], PromptedCollator]:
    encoder = PromptEncoder(options.task, AutoTokenizer.from_pretrained(folder), options.max_length)
    rows = load_texts(options.task.columns, options.dataset, options.shifted, options.train_rows, options.eval_rows)
    return {name: encoder.encode(split) for name, split in rows.items()}, encoder.collator()
