"""Time one MeZO step against the two plain forwards that it cannot do without, and compare peak memory.

    python scripts/bench_step.py                    # the packaged 135M model, batch 16
    python scripts/bench_step.py --placement snapshot --method fzoo --dtype bfloat16
    python scripts/bench_step.py --offload cpu      # weights kept in RAM by Accelerate, forwards included

Everything is measured in one run, interleaved: plain no-grad forwards computing the same loss, zoft's step,
and MeZO's step as its authors wrote it (noise generated four times by torch.normal, one tensor at a
time). Peak memory is that of two fresh processes, one that only runs forwards and one that trains.
"""

from __future__ import annotations

import argparse
import atexit
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import torch
from accelerate import cpu_offload, disk_offload
from torch import nn

import zoft
from zoft.bench.step.contenders import contender
from zoft.cli.arguments.model import ModelArguments
from zoft.cli.models import load_model_and_tokenizer
from zoft.tasks.data import load_splits
from zoft.tasks.encoding import PromptEncoder
from zoft.tasks.prompted import PromptedTask
from zoft.tasks.scoring import option_losses


def setting(arguments: argparse.Namespace) -> tuple[nn.Module, Callable[[], torch.Tensor]]:
    """Load the model and a batch of prompts made of the quickstart's film reviews."""
    model, tokenizer = load_model_and_tokenizer(
        ModelArguments(model_name_or_path=arguments.model, dtype=arguments.dtype)
    )
    task = PromptedTask("{text}\nOverall, the movie was", ("terrible", "great"))
    encoder = PromptEncoder(task, tokenizer, 2048)
    reviews = load_splits(task.columns, dataset="packaged:rotten-tomatoes").train
    size = arguments.reviews
    rows = [
        {"text": " ".join(str(r["text"]) for r in reviews[i * size : (i + 1) * size]), "label": i % 2}
        for i in range(arguments.batch)
    ]
    batch = encoder.collator()(list(encoder.encode(rows).examples))
    model.eval()
    if arguments.offload == "cpu":
        cpu_offload(model, execution_device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    elif arguments.offload == "disk":
        # Tied weights would be parted in files, which zoft refuses; here they are parted before.
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        model.all_tied_weights_keys = {}
        folder = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder)
        disk_offload(model, folder, execution_device=torch.device("cpu"))
    print(f"{arguments.model} {arguments.dtype}, {' x '.join(map(str, batch['input_ids'].shape))} tokens")
    return model, lambda: option_losses(model, batch).mean()


def forwards(loss: Callable[[], torch.Tensor], count: int) -> None:
    """Run plain forwards."""
    with torch.no_grad():
        for _ in range(count):
            loss().item()


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak_of(arguments: argparse.Namespace, what: str) -> int:
    """Return the peak resident bytes of a fresh process that only does ``what``."""
    command = [sys.executable, __file__, *sys.argv[1:], "--only", what]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(output.strip().splitlines()[-1])


def main() -> None:
    """Measure, print a table, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="packaged:smollm2-135m-instruct")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--reviews", type=int, default=4, help="film reviews in each prompt: 1 is 54 tokens, 4 are 154")
    parser.add_argument("--method", default="mezo")
    parser.add_argument("--placement", default="stream")
    parser.add_argument("--distribution", default=None)
    parser.add_argument("--offload", choices=("cpu", "disk"), default=None, help="keep weights in RAM, or in files")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", default=None)
    parser.add_argument("--only", choices=("forward", "train"), default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    model, loss = setting(arguments)
    config = zoft.ZOConfig(
        method=arguments.method, placement=arguments.placement, distribution=arguments.distribution, zo_eps=1e-3
    )
    optimizer = zoft.ZOOptimizer(model, lr=1e-7, config=config)
    count = optimizer.engine.method.estimator.forwards
    if arguments.only:
        for _ in range(3):
            forwards(loss, count) if arguments.only == "forward" else optimizer.step(loss)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
        return

    works: dict[str, Callable[[], object]] = {
        f"{count} plain forwards": lambda: forwards(loss, count),
        f"zoft {arguments.method} ({arguments.placement})": lambda: optimizer.step(loss),
    }
    if arguments.offload is None:  # as written it moves parameters that are not there
        works["MeZO as written"] = contender("as-written").prepare(model, loss)
    for work in works.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(arguments.rounds):
        for name, work in works.items():
            seconds[name].append(timed(work))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    plain = medians[f"{count} plain forwards"]
    print(f"{torch.get_num_threads()} threads, median of {arguments.rounds} rounds")
    for name, median in medians.items():
        print(f"{name:28} {median:8.3f} s   {median / plain:6.3f} x   (min {min(seconds[name]):.3f})")
    memory = {what: peak_of(arguments, what) for what in ("forward", "train")}
    ratio = memory["train"] / memory["forward"]
    forward_mib, train_mib = (memory[what] / 2**20 for what in ("forward", "train"))
    print(f"peak memory: forward-only {forward_mib:.0f} MiB, training {train_mib:.0f} MiB, {ratio:.3f} x")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"seconds": seconds, "peak_bytes": memory, "arguments": vars(arguments)}, file, indent=2)


if __name__ == "__main__":
    main()
