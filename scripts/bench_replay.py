"""Time the replay of a long log, without a training run: its records are made up, with plausible numbers.

    python scripts/bench_replay.py --steps 20000             # the packaged 135M model, MeZO, float32
    python scripts/bench_replay.py --distribution rademacher --dtype bfloat16

What a step of a replay costs does not depend on the numbers in its record. Reported are the check of the base
weights, the steps, and elements of directions made a second (compare bench_noise.py's G/s).
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import zoft
from zoft.cli.arguments.model import ModelArguments
from zoft.cli.models import load_model_and_tokenizer
from zoft.log_file import ReplayLog
from zoft.replay_log import check_base, engine_of, roll_forward
from zoft.types import StepRecord


def synthetic_log(path: Path, model: nn.Module, config: zoft.ZOConfig, lr: float, steps: int) -> ReplayLog:
    """Write a log of ``steps`` steps from this model's weights, as a run would have."""
    optimizer = zoft.ZOOptimizer(model, lr, config, log=path)
    engine, rng = optimizer.engine, random.Random(0)
    optimizer.close_log()
    log = ReplayLog.open(path, to_append=True)
    for step in range(steps):
        scalars = tuple(rng.gauss(0.0, 5.0) for _ in range(engine.num_scalars))
        log.append(StepRecord(step, rng.gauss(0.6, 0.1), scalars, (lr,) * len(engine.weight_decays)))
    log.close()
    return ReplayLog.open(path)  # as float32, which is what a log holds


def main() -> None:
    """Make a log, replay it, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="packaged:smollm2-135m-instruct")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--method", default="mezo")
    parser.add_argument("--distribution", default=None)
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    model, _ = load_model_and_tokenizer(ModelArguments(model_name_or_path=arguments.model, dtype=arguments.dtype))
    config = zoft.ZOConfig(method=arguments.method, distribution=arguments.distribution)
    with tempfile.TemporaryDirectory() as folder:
        log = synthetic_log(Path(folder, "zo_log"), model, config, arguments.lr, arguments.steps)
        size = log.path.stat().st_size
    began = time.perf_counter()
    check_base(model, log.header["base"])
    checked = time.perf_counter()
    roll_forward(engine_of(model, log.header), log.records, progress=True)
    seconds = time.perf_counter() - checked

    elements = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(
        f"torch {torch.__version__}, {arguments.threads} threads; {arguments.model} {arguments.dtype}, "
        f"{elements:,} parameters, {arguments.method}, {config.distribution or 'default'} directions"
    )
    print(
        f"log of {len(log.records)} steps: {size / 2**10:.0f} KiB; checking the base weights: {checked - began:.2f} s"
    )
    print(
        f"replay: {seconds:.1f} s, {seconds / len(log.records) * 1e3:.1f} ms a step, "
        f"{elements * len(log.records) * len(log.records[0].scalars) / seconds / 1e9:.2f} G/s"
    )


if __name__ == "__main__":
    main()
