"""A sentence encoder with a linear head on the mean of its last layer; by default, for the sentiment of film reviews.

The head starts where logistic regression on the frozen encoder's features ends (a linear probe), since with a
random head forward-only steps learn next to nothing, and fine-tuning first distorts the features (Kumar et al. 2022,
arXiv 2202.10054).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from zoft.bench.problems.classification import Classification, Split, flip_labels
from zoft.bench.problems.texts import load_texts
from zoft.bench.problems.trained import select_trained
from zoft.checks import check_count, check_share
from zoft.errors import ConfigError, DataError
from zoft.tasks.assets import is_packaged, resolve_model
from zoft.tasks.rows import Columns


@dataclass(frozen=True)
class Encoder:
    """Options of an encoder problem.

    Attributes:
        model: An encoder: ``packaged:minilm-l6``, a Hub name or a folder.
        train: What of the encoder is trained beside the head: ``full``, ``lora`` or a pattern of parameter names.
        dataset: What is trained on: rows with ``text`` and ``label``.
        labels: The data's labels.
        shifted: What the ``shifted`` split is made of; null where nothing else has these labels.
        train_rows: Rows to train on.
        eval_rows: Rows of each of the other splits.
        label_noise: Share of training labels that are made wrong, in [0, 1); the probe sees them too.
        max_length: Tokens after which a text is cut.
        batch_size: Rows of one step.
    """

    model: str = "packaged:minilm-l6"
    train: str = "full"
    dataset: str = "packaged:rotten-tomatoes"
    labels: tuple[str, ...] = ("0", "1")
    shifted: str | None = "packaged:imdb"
    train_rows: int = 1000
    eval_rows: int = 500
    label_noise: float = 0.0
    max_length: int = 64
    batch_size: int = 16

    def __post_init__(self) -> None:
        if len(set(self.labels)) < max(2, len(self.labels)):
            raise ConfigError(f"labels must be at least two, and differ, got {list(self.labels)}.")
        check_share("label_noise", self.label_noise)
        check_count("batch_size", self.batch_size)

    def build(self, seed: int, device: torch.device) -> Classification:
        """See :class:`zoft.bench.problems.Task`."""
        folder = str(resolve_model(self.model)) if is_packaged(self.model) else self.model
        encoded = _encode(self, folder)
        splits = {}
        for name, (tokens, labels) in encoded.items():
            if name == "train":
                labels = flip_labels(labels, self.label_noise, len(self.labels), seed)
            splits[name] = Split(labels, _Batches(tokens, device))
        absent = [label for number, label in enumerate(self.labels) if number not in splits["train"].labels]
        if absent:
            raise DataError(
                f"none of the {len(splits['train'].labels)} training rows has the label {', '.join(absent)}, and the "
                "linear probe needs rows of each: raise train_rows."
            )
        encoder = select_trained(AutoModel.from_pretrained(folder), self.train, seed)
        model = Pooled(encoder, _probe(_features(self, folder), splits["train"].labels)).to(device)
        return Classification(model, model, splits, classes=len(self.labels), batch_size=self.batch_size)


class Pooled(nn.Module):
    """Encoder, mean over the tokens that are not padding, linear head."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the scores of the classes, [B, classes], for tokens [B, L]."""
        hidden = self.encoder(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        scores: Tensor = self.head((hidden * mask).sum(1) / mask.sum(1))
        return scores


@dataclass(frozen=True)
class _Batches:
    """Tokens [n, L], cut to the longest row of each batch."""

    tokens: Mapping[str, Tensor]
    device: torch.device

    def __call__(self, rows: Tensor) -> dict[str, Tensor]:
        length = int(self.tokens["attention_mask"][rows].sum(1).max())
        return {name: tensor[rows, :length].to(self.device) for name, tensor in self.tokens.items()}


@cache
def _encode(options: Encoder, folder: str) -> dict[str, tuple[dict[str, Tensor], Tensor]]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    columns = Columns(text=("text",), label="label", labels=options.labels)
    splits = load_texts(columns, options.dataset, options.shifted, options.train_rows, options.eval_rows)
    encoded = {}
    for name, rows in splits.items():
        texts = [row["text"] for row in rows]
        tokens = tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=options.max_length,
            padding_side="right",
            return_tensors="pt",
        )
        encoded[name] = (dict(tokens), torch.tensor([options.labels.index(str(columns.class_of(row))) for row in rows]))
    return encoded


@cache
@torch.no_grad()
def _features(options: Encoder, folder: str) -> Tensor:
    """Return what the frozen encoder makes of the training rows, [n, H]."""
    tokens, labels = _encode(options, folder)["train"]
    model = Pooled(AutoModel.from_pretrained(folder), nn.Identity()).eval()
    batches = _Batches(tokens, torch.device("cpu"))
    return torch.cat([model(batches(rows)) for rows in torch.split(torch.arange(len(labels)), options.batch_size)])


@torch.no_grad()
def _probe(features: Tensor, labels: Tensor) -> nn.Linear:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(max_iter=1000).fit(features.numpy(), labels.numpy())
    head = nn.Linear(features.shape[1], max(2, len(fitted.intercept_)))
    for parameter, found in ((head.weight, fitted.coef_), (head.bias, fitted.intercept_)):
        rows = torch.tensor(found, dtype=torch.float32)
        # Two classes have one row of weights; half of it on either side gives the same probabilities.
        parameter.copy_(torch.cat([-rows / 2, rows / 2]) if len(rows) == 1 else rows)
    return head
