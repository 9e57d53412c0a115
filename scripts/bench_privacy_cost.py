"""Time and memory of a private step: zeroth-order beside DP-SGD by Opacus, on the same adapter of the same model.

    python scripts/bench_privacy_cost.py [--batch 16] [--steps 5]

The model, the adapter (LoRA, 460,800 parameters) and the rows are those of recipes/lora.yaml. Each measurement is a
process of its own; memory is its peak resident size. A batch is fixed here, so that all measure the same rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

RECIPE = Path(__file__).parent.parent / "recipes" / "lora.yaml"
NAMES = ("forward", "zo-1", "zo-4", "dp-sgd")


def prepared(batch: int) -> tuple[nn.Module, list[Any], Any]:
    """Return the model with its adapter, encoded rows, and the collator."""
    from zoft.cli.config import parse_arguments
    from zoft.cli.families import family_of

    parsed = parse_arguments(["--config", str(RECIPE), "--max_eval_samples", "1"])
    family = family_of(parsed)
    model, tokenizer = family.load(parsed)
    problem = family.build(parsed, family.read(parsed), model, tokenizer)
    return model, [problem.train[i] for i in range(batch)], problem.collator


def loss_of(model: nn.Module, batch: Any) -> torch.Tensor:
    from zoft.tasks.scoring import option_scores

    return nn.functional.cross_entropy(option_scores(model, batch), batch["labels"])


def steps_of(name: str, batch: int, folder: Path) -> Callable[[], Any]:
    """Return a function that takes one step."""
    model, rows, collate = prepared(batch)
    if name == "forward":
        whole = collate(rows)
        return torch.no_grad()(lambda: loss_of(model.eval(), whole))
    if name == "dp-sgd":
        from opacus import GradSampleModule
        from opacus.optimizers import DPOptimizer

        whole, private = collate(rows), GradSampleModule(model.train(), strict=False)
        sgd = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        optimizer = DPOptimizer(sgd, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=batch)

        def step() -> None:
            optimizer.zero_grad()
            loss_of(private, whole).backward()
            optimizer.step()

        return step
    import zoft
    from zoft.privacy import PrivacyConfig, PrivacyPlan

    queries = int(name.partition("-")[2])
    config = PrivacyConfig(dp_noise_multiplier=1.0, dp_target_delta=1e-5)
    plan = PrivacyPlan.of(config, num_examples=8000, expected_batch_size=batch, steps=100, num_scalars=queries)
    zo = zoft.ZOConfig(method="mezo", num_queries=queries, zo_eps=1e-2)
    optimizer = zoft.ZOOptimizer(model, 1e-3, zo, privacy=plan, log=folder / "zo_log")
    alone = [collate([row]) for row in rows]
    return lambda: optimizer.step([lambda one=one: loss_of(model, one) for one in alone])


def measure(name: str, batch: int, steps: int) -> dict[str, Any]:
    """Measure in this process."""
    from zoft.hf.meters import peak_memory_bytes

    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        step, seconds = steps_of(name, batch, Path(folder)), []
        for _ in range(steps + 1):
            started = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - started)
    return {"name": name, "seconds": statistics.median(seconds[1:]), "peak": peak_memory_bytes()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--only", choices=NAMES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        print(json.dumps(measure(asked.only, asked.batch, asked.steps)))
        return
    print("| step | seconds | peak memory, GiB |\n|---|---|---|")
    for name in NAMES:
        command = [sys.executable, __file__, "--only", name, "--batch", str(asked.batch), "--steps", str(asked.steps)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = json.loads(output.splitlines()[-1])
        print(f"| {name} | {found['seconds']:.2f} | {found['peak'] / 2**30:.2f} |", flush=True)


if __name__ == "__main__":
    main()
