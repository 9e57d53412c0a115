"""Put each known flaw of private training into a copy of the package, one at a time, and see which test turns red.

    python scripts/privacy_mutations.py              # all flaws: a Markdown table, exit code 1 if one survives
    python scripts/privacy_mutations.py --only noise # those with this word in their names

The flaws are those found in published implementations (docs/privacy.md). Each is a change of text that must still be
found in the source, exactly once, and a few tests named for it; without any flaw those tests must pass.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent

CLIPPING, CONFIG = "zoft/privacy/clipping.py", "zoft/privacy/qualify.py"
MECHANISM, SAMPLING = "zoft/privacy/mechanism.py", "zoft/privacy/sampling.py"
STEPS, TRAINER, LOG = "zoft/optim/private.py", "zoft/hf/private.py", "zoft/log_file.py"

SENSITIVITY, SAMPLED = "tests/privacy/test_sensitivity.py", "tests/privacy/test_sampling.py"
NOISE, COMPANY = "tests/privacy/test_noise.py", "tests/privacy/test_batch_invariance.py"
SPENDING, QUALIFY = "tests/privacy/test_spending.py", "tests/privacy/test_qualify.py"


@dataclass(frozen=True)
class Edit:
    """One change of text: ``old``, which the file holds exactly once, becomes ``new``."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Flaw:
    """A flaw.

    Attributes:
        name: What is wrong.
        change: How it is put in.
        edits: The same, as text.
        tests: The files of tests that are to notice.
    """

    name: str
    change: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


# Rows as they are, for a loader that collates them itself.
ROWS = Edit(TRAINER, "return self._collate([self._dataset[number]])", "return self._dataset[number]")

FLAWS = [
    Flaw(
        "noise from the public direction seed",
        "the noise of a step is numpy's, seeded by the run's seed and the step",
        (
            Edit(
                STEPS,
                "float32(self._replicas.from_first(published))",
                "float32(release(total, mechanism='gaussian', noise_multiplier=1e-9, clip_threshold=clip_threshold, "
                "expected_batch_size=plan.expected_batch_size) + plan.noise_multiplier * clip_threshold / "
                "plan.expected_batch_size * __import__('numpy').random.default_rng([self._engine.config.seed, "
                "self._engine.step]).standard_normal(len(total)))",
            ),
        ),
        (NOISE,),
    ),
    Flaw(
        "noise on every rank",
        "each process draws noise of its own",
        (Edit(STEPS, "self._replicas.from_first(published)", "published()"),),
        (NOISE,),
    ),
    Flaw(
        "no noise",
        "the sum is published as it is",
        (Edit(MECHANISM, "noised(total, mechanism, noise_multiplier)", "total"),),
        (NOISE,),
    ),
    Flaw(
        "half the noise",
        "the noise has half of its scale",
        (
            Edit(
                MECHANISM, "noised(total, mechanism, noise_multiplier)", "noised(total, mechanism, noise_multiplier/2)"
            ),
        ),
        (NOISE,),
    ),
    Flaw(
        "fixed-size batches accounted as Poisson",
        "batches are the first so many of a permutation",
        (
            Edit(
                SAMPLING,
                "np.flatnonzero(self._random.random(self._num_examples) < self._drawn_rate).tolist()",
                "sorted(self._random.permutation(self._num_examples)"
                "[: round(self._num_examples * self._drawn_rate)].tolist())",
            ),
        ),
        (SAMPLED,),
    ),
    Flaw(
        "an empty batch is skipped: not drawn",
        "the sampler yields no empty batch",
        (
            Edit(
                SAMPLING,
                "for number in range(self._micro_batches):",
                "for number in range(self._micro_batches if batch else 0):",
            ),
        ),
        (SAMPLED,),
    ),
    Flaw(
        "an empty batch is skipped: not charged",
        "a step on no examples writes no intent",
        (
            Edit(
                STEPS,
                "            self._charge()\n",
                "            if closure:\n                self._charge()\n            self._is_paid = True\n",
            ),
        ),
        (SPENDING,),
    ),
    Flaw(
        "a sampling key that can be guessed",
        "32 bits of the key count, as with torch's generators",
        (Edit(SAMPLING, "secret_key() if key is None else key)", "(secret_key() if key is None else key) % 2**32)"),),
        (SAMPLED,),
    ),
    Flaw(
        "division by the actual batch size",
        "the noised sum is divided by the number of examples that came",
        (
            Edit(MECHANISM, "self.total = [0] * num_scalars", "self.total, self.size = [0] * num_scalars, 0"),
            Edit(MECHANISM, "        self.total = list(map(", "        self.size += 1\n        self.total = list(map("),
            Edit(
                STEPS,
                "clip_threshold = self._sum.clip_threshold",
                "clip_threshold, size = self._sum.clip_threshold, self._sum.size",
            ),
            Edit(STEPS, "expected_batch_size=plan.expected_batch_size", "expected_batch_size=max(1, size)"),
        ),
        (SENSITIVITY,),
    ),
    Flaw(
        "NaN and Inf pass the clip",
        "a vector that is not finite counts as the threshold in each coordinate",
        (
            Edit(
                CLIPPING,
                "return [0] * len(slopes)",
                "return [0 if slope == 0.0 else CLIPPED for slope in slopes]",
            ),
        ),
        (SENSITIVITY,),
    ),
    Flaw(
        "K scalars clipped one by one, accounted as one release",
        "each coordinate is clipped to the whole threshold",
        (
            Edit(
                MECHANISM,
                "clip_to_grid(slopes, self.clip_threshold)",
                "[step for slope in slopes for step in clip_to_grid([slope], self.clip_threshold)]",
            ),
        ),
        (SENSITIVITY,),
    ),
    Flaw(
        "a loss that is a batch mean",
        "the batch is one example to the clip",
        (
            ROWS,
            Edit(
                TRAINER,
                "collate_fn=_side_by_side,",
                "collate_fn=lambda rows: {EXAMPLES: [loader.collate_fn(rows)] if rows else []},",
            ),
        ),
        (COMPANY,),
    ),
    Flaw(
        "padding that depends on neighbours",
        "examples are collated together, then evaluated one by one",
        (
            ROWS,
            Edit(
                TRAINER,
                "collate_fn=_side_by_side,",
                "collate_fn=lambda rows: {EXAMPLES: [{k: x[n : n + 1] for k, x in loader.collate_fn(rows).items()} "
                "for n in range(len(rows))]},",
            ),
        ),
        (COMPANY,),
    ),
    Flaw(
        "`num_items_in_batch` couples examples",
        "private batches have labels, by which Trainer counts tokens",
        (
            Edit(
                TRAINER,
                "    return {EXAMPLES: examples}\n",
                "    import torch\n\n"
                "    labels = [torch.empty(0, dtype=torch.long), *(x['labels'].flatten() for x in examples)]\n"
                "    return {EXAMPLES: examples, 'labels': torch.cat(labels)}\n",
            ),
        ),
        (COMPANY,),
    ),
    Flaw(
        "batch statistics couple examples",
        "batch normalisation is not refused",
        (Edit(CONFIG, "isinstance(module, _BatchNorm)", "False"),),
        (QUALIFY,),
    ),
    Flaw(
        "experts' capacities couple examples",
        "mixtures of experts are not refused",
        (Edit(CONFIG, "_EXPERTS.search(kind)", "False"),),
        (QUALIFY,),
    ),
    Flaw(
        "raw losses in the log",
        "a step's record holds the loss of its last example",
        (
            Edit(
                STEPS,
                "self._sum.add(self._vector(estimate.scalars))",
                "self._sum.add(self._vector(estimate.scalars)); self._seen = estimate.loss",
            ),
            Edit(STEPS, "StepRecord(step, math.nan,", "StepRecord(step, getattr(self, '_seen', math.nan),"),
        ),
        (SPENDING, "tests/privacy/test_trainer.py"),
    ),
    Flaw(
        "clip fractions logged",
        "Trainer's log shows whether the last example was within the threshold",
        (
            Edit(
                STEPS,
                "self._sum.add(self._vector(estimate.scalars))",
                "self._sum.add(self._vector(estimate.scalars)); self.within = math.hypot(*estimate.scalars) <= 1.0",
            ),
            Edit(
                TRAINER,
                'public["epsilon"] = round(spending.epsilon, 4)',
                'public["epsilon"], public["within"] = round(spending.epsilon, 4), getattr(spending, "within", 0)',
            ),
        ),
        (COMPANY, "tests/privacy/test_trainer.py"),
    ),
    Flaw(
        "true batch sizes logged",
        "Trainer's log shows how many examples the step had",
        (
            Edit(
                STEPS,
                "            self._charge()\n",
                "            self._charge()\n            self.size = len(closure)\n",
            ),
            Edit(
                TRAINER,
                'public["epsilon"] = round(spending.epsilon, 4)',
                'public["epsilon"], public["batch_size"] = round(spending.epsilon, 4), spending.size',
            ),
        ),
        (COMPANY, "tests/privacy/test_trainer.py"),
    ),
    Flaw(
        "best checkpoint chosen on private data",
        "load_best_model_at_end is not refused",
        (Edit(TRAINER, "    if not privacy.dp_eval_is_public:\n        asked", "    if False:\n        asked"),),
        (COMPANY, "tests/privacy/test_trainer.py"),
    ),
    Flaw(
        "accountant not saved: epsilon goes down on resume",
        "a resumed run begins with nothing charged",
        (Edit(STEPS, "self.charged = intents\n", "self.charged = 0\n"),),
        (SPENDING, "tests/privacy/test_crash.py"),
    ),
    Flaw(
        "an interrupted step costs nothing",
        "a log's charges are its steps, not its intents",
        (
            Edit(
                LOG,
                "            intents += 1\n            continue",
                "            intents = step + 1\n            continue",
            ),
        ),
        (SPENDING, "tests/privacy/test_crash.py"),
    ),
    Flaw(
        "the same batch noised again after a crash: its examples",
        "what an interrupted attempt summed is kept, and paid for once",
        (
            Edit(
                STEPS,
                "            self.forget()  # or examples would count twice",
                "            pass  # examples count twice",
            ),
        ),
        (SENSITIVITY, "tests/privacy/test_crash.py"),
    ),
    Flaw(
        "the same batch noised again after a crash: its key",
        "batches are drawn from the run's seed",
        (Edit(TRAINER, "key=replicas.from_first(secret_key)", "key=args.seed"),),
        (COMPANY, "tests/privacy/test_crash.py"),
    ),
]


# What takes seconds to import, and is not ours.
_SLOW = [
    "dp_accounting",
    "opacus.accountants",
    "opendp.prelude",
    "scipy.stats",
    "torch._dynamo",
    "transformers.trainer",
]


class FirstRed:
    """Remembers the first test that failed."""

    name: str | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.name is None:
            self.name = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and self.name is None:
            raise RuntimeError(f"{report.nodeid} cannot be collected: {report.longreprtext}")


def first_red(copy: Path, tests: Sequence[str]) -> str | None:
    """Run tests of a copy, in a process of their own; return the first that fails."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_SLOW)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, copy, list(tests)))
    process.start()
    sender.close()
    try:
        outcome: str | Exception | None = receiver.recv()
    finally:
        process.join()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _run(sender: Any, copy: Path, tests: list[str]) -> None:
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    import zoft

    red = FirstRed()
    with open(copy / "output", "w") as output, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        assert Path(zoft.__file__).is_relative_to(copy)
        code = pytest.main(
            ["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", f"--rootdir={copy}", *tests], plugins=[red]
        )
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        sender.send(RuntimeError(f"pytest ended with {code!r}: {(copy / 'output').read_text()[-2000:]}"))
    else:
        sender.send(red.name)


def copied(folder: Path, edits: Sequence[Edit]) -> Path:
    """Copy the package and its tests, and change the package.

    Raises:
        ValueError: If a text is not found exactly once.
    """
    for name in ("zoft", "tests"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for edit in edits:
        text = (folder / edit.file).read_text()
        if text.count(edit.old) != 1:
            raise ValueError(f"{edit.file} holds {edit.old!r} {text.count(edit.old)} times; it must be there once.")
        (folder / edit.file).write_text(text.replace(edit.old, edit.new))
    return folder


def try_edits(edits: Sequence[Edit], tests: Sequence[str]) -> str | None:
    """Return the first test that these edits turn red."""
    with tempfile.TemporaryDirectory() as folder:
        return first_red(copied(Path(folder).resolve(), edits), [test for test in tests if (ROOT / test).exists()])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="flaws with this in their names")
    only = parser.parse_args(arguments).only
    flaws = [flaw for flaw in FLAWS if only in flaw.name]
    if not flaws:
        parser.error(f"no flaw has {only!r} in its name; they are: {'; '.join(flaw.name for flaw in FLAWS)}")
    os.environ["OMP_NUM_THREADS"] = "1"
    red = try_edits((), sorted({test for flaw in flaws for test in flaw.tests}))
    if red is not None:
        print(f"without any flaw, {red} fails already", file=sys.stderr)
        return 1
    survived = 0
    print("| flaw | what was changed | first red test |\n|---|---|---|")
    for flaw in tqdm(flaws, unit="flaw"):
        red = try_edits(flaw.edits, flaw.tests)
        survived += red is None
        tqdm.write(f"| {flaw.name} | {flaw.change} | {'**none: it survives**' if red is None else f'`{red}`'} |")
    return min(1, survived)


if __name__ == "__main__":
    sys.exit(main())
