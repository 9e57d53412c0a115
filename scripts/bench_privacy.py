"""What privacy costs in accuracy: private zeroth-order training beside DP-SGD, on film reviews.

    python scripts/bench_privacy.py --out runs/privacy.jsonl            # what is missing there; then the table
    python scripts/bench_privacy.py --out runs/privacy.jsonl --table    # the table alone

A pretrained sentence encoder (MiniLM, 22.7M parameters, public) turns reviews into vectors of length one; a linear head
of 770 parameters is trained on 1,024 of them, privately. All runs take the same number of steps over Poisson batches of
the same expected size. DP-SGD is Opacus's. Learning rates are chosen at epsilon 2 with one seed, and kept; that choice,
like the scores, is made on rows that are taken for public. "inf" clips and adds practically no noise.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from opacus import PrivacyEngine
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

import zoft
from zoft.bench.problems.encoder import Pooled
from zoft.bench.problems.texts import load_texts
from zoft.privacy import PoissonBatches, PrivacyConfig, PrivacyPlan
from zoft.tasks.assets import resolve_model
from zoft.tasks.rows import Columns

ROWS, HELD_OUT, BATCH, STEPS, DELTA = 1024, 800, 64, 200, 1e-5
EPSILONS = (1.0, 2.0, 4.0, 8.0, math.inf)
TUNED_AT = 2.0
LRS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
CLIP = 0.3  # below most gradients' norms (0.5 to 0.9 at the start), so that all examples count about alike


@dataclass(frozen=True)
class Run:
    """One training. ``queries`` 0 is DP-SGD."""

    queries: int
    epsilon: float
    lr: float
    seed: int


@torch.no_grad()
def reviews() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return vectors and labels to train on, and held-out ones."""
    folder = str(resolve_model("packaged:minilm-l6"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = Pooled(AutoModel.from_pretrained(folder), nn.Identity()).eval()
    columns = Columns(text=("text",), label="label", labels=("0", "1"))
    splits = load_texts(columns, "packaged:rotten-tomatoes", None, ROWS, HELD_OUT)
    found = []
    for rows in (splits["train"], splits["test"]):
        texts = [row["text"] for row in rows]
        batches = [
            encoder(tokenizer(texts[at : at + 32], padding=True, truncation=True, max_length=64, return_tensors="pt"))
            for at in range(0, len(texts), 32)
        ]
        found += [nn.functional.normalize(torch.cat(batches)), torch.tensor([int(row["label"]) for row in rows])]
    return tuple(found)  # type: ignore[return-value]


def planned(run: Run) -> PrivacyPlan:
    """Return the run's plan, with a clip threshold for its number of slopes."""
    queries = max(run.queries, 1)
    noise = {"dp_noise_multiplier": 1e-6} if math.isinf(run.epsilon) else {"dp_target_epsilon": run.epsilon}
    config = PrivacyConfig(dp_target_delta=DELTA, dp_clip_threshold=CLIP * math.sqrt(queries), **noise)
    return PrivacyPlan.of(config, num_examples=ROWS, expected_batch_size=BATCH, steps=STEPS, num_scalars=queries)


def train_zo(run: Run, head: nn.Linear, x: Tensor, y: Tensor) -> None:
    """Train by private zeroth-order steps."""
    plan = planned(run)
    config = zoft.ZOConfig(method="mezo", num_queries=run.queries, zo_eps=1e-3, seed=run.seed)
    with tempfile.TemporaryDirectory() as folder:
        optimizer = zoft.ZOOptimizer(head, run.lr, config, privacy=plan, log=Path(folder, "zo_log"))
        for batch in PoissonBatches(ROWS, plan.sample_rate, STEPS):
            optimizer.step([lambda i=i: nn.functional.cross_entropy(head(x[i : i + 1]), y[i : i + 1]) for i in batch])
        optimizer.close_log()


def train_sgd(run: Run, head: nn.Linear, x: Tensor, y: Tensor) -> None:
    """Train by Opacus's DP-SGD, with the noise of the same plan."""
    optimizer = torch.optim.SGD(head.parameters(), lr=run.lr)
    private, optimizer, loader = PrivacyEngine(accountant="prv").make_private(
        module=head,
        optimizer=optimizer,
        data_loader=DataLoader(TensorDataset(x, y), batch_size=BATCH),
        noise_multiplier=planned(run).noise_multiplier,
        max_grad_norm=CLIP,
        poisson_sampling=True,
    )
    taken = 0
    while taken < STEPS:
        for vectors, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(private(vectors), labels).backward()
            optimizer.step()
            taken += 1
            if taken == STEPS:
                break


def measured(run: Run, data: tuple[Tensor, Tensor, Tensor, Tensor]) -> dict[str, Any]:
    """Train and score."""
    x, y, held_out, labels = data
    torch.manual_seed(run.seed)
    head = nn.Linear(x.shape[1], 2)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    started = time.perf_counter()
    (train_zo if run.queries else train_sgd)(run, head, x, y)
    seconds = time.perf_counter() - started
    with torch.no_grad():
        accuracy = (head(held_out).argmax(-1) == labels).float().mean().item()
    return {**asdict(run), "accuracy": accuracy, "seconds": round(seconds, 1)}


def missing(results: list[dict[str, Any]], queries: int, seeds: int) -> Iterator[Run]:
    """Yield what is still to be run for one method: its tuning, then its curve."""
    done = {(r["queries"], r["epsilon"], r["lr"], r["seed"]) for r in results}
    for lr in LRS:
        if (queries, TUNED_AT, lr, 0) not in done:
            yield Run(queries, TUNED_AT, lr, 0)
    best = tuned_lr(results, queries)
    for epsilon in EPSILONS:
        for seed in range(1, seeds + 1):
            if best is not None and (queries, epsilon, best, seed) not in done:
                yield Run(queries, epsilon, best, seed)


def tuned_lr(results: list[dict[str, Any]], queries: int) -> float | None:
    """Return the learning rate that did best in tuning; None before all were tried."""
    tried = [r for r in results if (r["queries"], r["epsilon"], r["seed"]) == (queries, TUNED_AT, 0)]
    if len(tried) < len(LRS):
        return None
    return float(max(tried, key=lambda r: r["accuracy"])["lr"])


def table(results: list[dict[str, Any]]) -> str:
    """Return mean accuracy and standard error over seeds, by method and epsilon."""
    names = ["inf" if math.isinf(e) else f"{e:g}" for e in EPSILONS]
    lines = [f"| method | lr | {' | '.join(f'eps {n}' for n in names)} | s a run |", "|---" * (len(names) + 3) + "|"]
    for queries in sorted({r["queries"] for r in results}):
        best = tuned_lr(results, queries)
        if best is None:
            continue
        mine = [r for r in results if r["queries"] == queries and r["lr"] == best and r["seed"]]
        cells = []
        for epsilon in EPSILONS:
            scores = [r["accuracy"] for r in mine if r["epsilon"] == epsilon]
            error = statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else math.nan
            cells.append(f"{statistics.mean(scores):.3f} ± {error:.3f}" if scores else "")
        seconds = statistics.median([r["seconds"] for r in mine]) if mine else math.nan
        name = f"mezo, K = {queries}" if queries else "DP-SGD (Opacus)"
        lines.append(f"| {name} | {best:g} | {' | '.join(cells)} | {seconds:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="A .jsonl file, one run a line.")
    parser.add_argument("--queries", type=int, nargs="+", default=[0, 1, 16, 64], help="Directions a step; 0: DP-SGD.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="Print the table of what is there.")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")  # Opacus's about secure random numbers, which a measurement does not need
    results = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    if not asked.table:
        data = reviews()
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        for queries in asked.queries:
            while runs := list(missing(results, queries, asked.seeds)):
                for run in tqdm(runs, desc=f"K = {queries}"):
                    results.append(measured(run, data))
                    with asked.out.open("a") as file:
                        file.write(json.dumps(results[-1]) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
