"""Measure one perturbation pass, theta += eps z, against MeZO's as-written one, in one process.

    python scripts/bench_noise.py [--threads N] [--json FILE]

As written means what MeZO's public trainer does for every parameter: draw ``z`` with ``torch.normal`` from the
seeded global generator, then ``param.data = param.data + scale * z * eps``. Ours is one call of
``zoft.noise.combine`` over all parameters, in place. Each figure is the best of several runs, taken in turns so
that a busy moment of the machine hurts both sides alike.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from zoft import noise
from zoft.noise import DISTRIBUTIONS, Distribution, Span, Term

ZO_EPS = 1e-3
# Stated for at least 10^7 float32 elements.
TARGETS: dict[str, float] = {"gaussian": 8.0, "rademacher": 25.0}
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


def best_of(repeats: int, passes: Sequence[Callable[[int], None]]) -> list[float]:
    """Seconds of the fastest run of each pass; the passes take turns."""
    best = [float("inf")] * len(passes)
    for repeat in range(-1, repeats):  # the first round warms up and does not count
        for i, run in enumerate(passes):
            begin = time.perf_counter()
            run(repeat + 1)
            seconds = time.perf_counter() - begin
            if repeat >= 0:
                best[i] = min(best[i], seconds)
    return best


def measure(case: Case, repeats: int) -> list[Figure]:
    """Time all passes over one case."""
    parameters = [
        torch.nn.Parameter(torch.full((case.elements,), 0.02, dtype=case.dtype), requires_grad=False)
        for _ in range(case.tensors)
    ]
    key = noise.run_key(0)

    def pass_of(distribution: Distribution) -> Callable[[int], None]:
        return lambda step: ours(parameters, step, key, distribution)

    passes = [lambda seed: as_written(parameters, seed), *(pass_of(d) for d in DISTRIBUTIONS)]
    written, *seconds = best_of(repeats, passes)
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


def main() -> None:
    """Run all cases, print the table, say whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    cases = [
        Case(f"1 x {elements:.0e}".replace("e+0", "e"), 1, elements, dtype)
        for elements in (10_000_000, 30_000_000)
        for dtype in (torch.float32, torch.bfloat16)
    ]
    cases += [
        Case(f"{LORA_TENSORS} x {LORA_ELEMENTS}", LORA_TENSORS, LORA_ELEMENTS, dtype)
        for dtype in (torch.float32, torch.bfloat16)
    ]
    print(f"torch {torch.__version__}, {args.threads} thread(s), {platform.processor() or platform.machine()}")
    head = f"{'parameters':<12} {'dtype':<9} {'z':<11} {'as written':>11} {'zoft':>9} {'G/s':>6} {'faster':>8}"
    print(head)
    print("-" * len(head))
    figures = []
    for case in cases:
        for figure in measure(case, args.repeats):
            figures.append(figure)
            print(
                f"{figure.case:<12} {figure.dtype:<9} {figure.distribution:<11} "
                f"{figure.as_written_seconds * 1e3:>8.2f} ms {figure.seconds * 1e3:>6.2f} ms "
                f"{figure.elements / figure.seconds / 1e9:>6.2f} {figure.speedup:>7.1f}x"
            )
    for distribution, target in TARGETS.items():
        worst = min(
            f.speedup
            for f in figures
            if f.distribution == distribution and f.dtype == "float32" and f.elements >= 10_000_000
        )
        verdict = "met" if worst >= target else "MISSED"
        print(f"target {distribution}, float32, >= 1e7 elements: {target:.0f}x, measured {worst:.1f}x: {verdict}")
    if args.json:
        rows = [{**asdict(figure), "speedup": figure.speedup} for figure in figures]
        args.json.write_text(
            json.dumps(
                {
                    "torch": torch.__version__,
                    "threads": args.threads,
                    "machine": platform.machine(),
                    "figures": rows,
                },
                indent=2,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
