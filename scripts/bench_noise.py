"""Measure one perturbation pass, theta += eps z, against MeZO's as-written one, in one process.

    python scripts/bench_noise.py [--device cuda] [--threads N] [--json FILE]

As written means what MeZO's public trainer does for every parameter: draw ``z`` with ``torch.normal`` from the
seeded global generator, then ``param.data = param.data + scale * z * eps``. Ours is one call of
``zoft.noise.combine`` over all parameters, in place. Each figure is the best of several runs, taken in turns so
that a busy moment of the machine hurts both sides alike.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from zoft import noise
from zoft.bench.step.ceilings import copy_rate
from zoft.bench.step.timing import seconds_of
from zoft.noise import DISTRIBUTIONS, Distribution, Span, Term

ZO_EPS = 1e-3
# On a CPU: how many times faster than as written, for at least 10^7 float32 elements.
TARGETS: dict[str, float] = {"gaussian": 8.0, "rademacher": 25.0}
# On a GPU: the share of a copy's bandwidth, for 10^9 elements.
COPY_TARGETS: dict[str, float] = {"gaussian": 0.6, "rademacher": 0.8}
LORA_TENSORS, LORA_ELEMENTS = 420, 4_608


@dataclass(frozen=True)
class Case:
    """A set of equally large parameters.

    Attributes:
        name: For the table.
        tensors: How many.
        elements: Elements of each.
        dtype: Their type.
    """

    name: str
    tensors: int
    elements: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Figure:
    """One line of the table; seconds are of one pass over all of a case's parameters."""

    case: str
    dtype: str
    elements: int
    distribution: str
    seconds: float
    as_written_seconds: float

    @property
    def bandwidth(self) -> float:
        """Bytes read and written in a second."""
        return 2 * self.elements * getattr(torch, self.dtype).itemsize / self.seconds

    @property
    def speedup(self) -> float:
        """How many times faster than as written."""
        return self.as_written_seconds / self.seconds


def as_written(parameters: Sequence[torch.nn.Parameter], seed: int) -> None:
    """One pass of MeZO's perturbation, as its public code does it."""
    torch.manual_seed(seed)
    for param in parameters:
        z = torch.normal(mean=0, std=1, size=param.data.size(), device=param.data.device, dtype=param.data.dtype)
        param.data = param.data + 1 * z * ZO_EPS


def ours(parameters: Sequence[torch.nn.Parameter], step: int, key: int, distribution: Distribution) -> None:
    """The same pass with zoft's kernels."""
    spans = [Span(param.data, param.data, number) for number, param in enumerate(parameters)]
    noise.combine(spans, [Term(step, 0, ZO_EPS)], key=key, distribution=distribution)


def best_of(repeats: int, passes: Sequence[Callable[[int], None]], device: torch.device) -> list[float]:
    """Seconds of the fastest run of each pass; the passes take turns."""
    best = [float("inf")] * len(passes)
    for repeat in range(-1, repeats):  # the first round warms up and does not count
        for i, run in enumerate(passes):
            seconds = seconds_of(partial(run, repeat + 1), device)
            if repeat >= 0:
                best[i] = min(best[i], seconds)
    return best


def measure(case: Case, repeats: int, device: torch.device) -> list[Figure]:
    """Time all passes over one case."""
    parameters = [
        torch.nn.Parameter(torch.full((case.elements,), 0.02, dtype=case.dtype, device=device), requires_grad=False)
        for _ in range(case.tensors)
    ]
    key = noise.run_key(0)

    def pass_of(distribution: Distribution) -> Callable[[int], None]:
        return lambda step: ours(parameters, step, key, distribution)

    passes = [lambda seed: as_written(parameters, seed), *(pass_of(d) for d in DISTRIBUTIONS)]
    written, *seconds = best_of(repeats, passes, device)
    return [
        Figure(
            case.name,
            str(case.dtype).removeprefix("torch."),
            case.tensors * case.elements,
            distribution,
            spent,
            written,
        )
        for distribution, spent in zip(DISTRIBUTIONS, seconds, strict=True)
    ]


def cases(device: torch.device) -> list[Case]:
    """Large parameters, and those of an adapter."""
    large = (10_000_000, 30_000_000) if device.type == "cpu" else (100_000_000, 1_000_000_000)
    shapes = [(1, elements) for elements in large] + [(LORA_TENSORS, LORA_ELEMENTS)]
    return [
        Case(
            f"{tensors} x {f'{elements:.0e}'.replace('e+0', 'e') if tensors == 1 else elements}",
            tensors,
            elements,
            dtype,
        )
        for tensors, elements in shapes
        for dtype in (torch.float32, torch.bfloat16)
    ]


def main() -> None:
    """Run all cases, print the table, say whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    on_cpu = args.device.type == "cpu"
    where = f"{args.threads} thread(s), {platform.processor() or platform.machine()}"
    copy = None
    if not on_cpu:
        copy = copy_rate(args.device)
        where = f"{torch.cuda.get_device_name(args.device)}, a copy {copy / 1e9:.0f} GB/s"
    print(f"torch {torch.__version__}, {where}")
    head = f"{'parameters':<12} {'dtype':<9} {'z':<11} {'as written':>11} {'zoft':>10} {'G/s':>7} {'faster':>8}"
    print(head + (" of a copy" if copy else ""))
    print("-" * len(head))
    figures = []
    for case in cases(args.device):
        for figure in measure(case, args.repeats, args.device):
            figures.append(figure)
            print(
                f"{figure.case:<12} {figure.dtype:<9} {figure.distribution:<11} "
                f"{figure.as_written_seconds * 1e3:>8.2f} ms {figure.seconds * 1e3:>7.3f} ms "
                f"{figure.elements / figure.seconds / 1e9:>7.2f} {figure.speedup:>7.1f}x"
                + (f" {figure.bandwidth / copy:>8.0%}" if copy else ""),
                flush=True,
            )
    for distribution in DISTRIBUTIONS:
        of_it = [figure for figure in figures if figure.distribution == distribution]
        if copy is None:
            target = TARGETS[distribution]
            worst = min(f.speedup for f in of_it if f.dtype == "float32" and f.elements >= 10_000_000)
            said = f"float32, >= 1e7 elements: {target:.0f}x, measured {worst:.1f}x"
        else:
            target = COPY_TARGETS[distribution]
            worst = min(f.bandwidth / copy for f in of_it if f.elements >= 1_000_000_000)
            said = f"1e9 elements: {target:.0%} of a copy, measured {worst:.0%}"
        print(f"target {distribution}, {said}: {'met' if worst >= target else 'MISSED'}")
    if args.json:
        rows = [{**asdict(figure), "speedup": figure.speedup} for figure in figures]
        args.json.write_text(
            json.dumps(
                {
                    "torch": torch.__version__,
                    "threads": args.threads,
                    "device": where,
                    "copy_bytes_per_second": copy,
                    "figures": rows,
                },
                indent=2,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
