"""A tiny model and data set on disk, and ``zoft-train`` in processes that can be killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import struct
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

NEUTRAL = ["a", "the", "film", "is", "it", "was", "and", "not", "very", "so"]
GOOD, BAD = ["great", "good", "fine", "lovely"], ["terrible", "bad", "poor", "dull"]
STEPS = 24


def make_assets(folder: Path) -> Path:
    """Write ``model/``, ``rows.jsonl`` and ``recipe.yaml``; return the recipe."""
    vocabulary = {word: index for index, word in enumerate(["<unk>", "<eos>", *NEUTRAL, *GOOD, *BAD])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>")
    tokenizer.save_pretrained(folder / "model")
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder / "model")
    rng = random.Random(0)
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
        for number in range(60):
            label = number % 2
            words = [*rng.choices(NEUTRAL, k=rng.randint(2, 6)), rng.choice(GOOD if label else BAD)]
            file.write(json.dumps({"text": " ".join(words), "label": label}) + "\n")
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"""\
model_name_or_path: {folder}/model
dataset: {folder}/rows.jsonl
template: "{{text}} it was"
label_words: [terrible, great]
eval_fraction: 0.2
zo_method: mezo
zo_eps: 1e-2
learning_rate: 1e-2
per_device_train_batch_size: 4
max_steps: {STEPS}
logging_steps: 4
save_strategy: no
use_cpu: true
report_to: none
disable_tqdm: true
""",
        encoding="utf-8",
    )
    return recipe


def letters(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """A reward that hardly any two completions share."""
    return [sum(map(ord, completion)) / 1e3 for completion in completions]


def steps_logged(log: Path) -> int:
    """Whole records of the kind with one scalar and one or two groups in a log; 0 without one."""
    try:
        content = log.read_bytes()
        header = json.loads(content[16:][: struct.unpack_from("<I", content, 8)[0]])
    except (OSError, ValueError, struct.error):
        return 0
    size = 16 + 4 * (header["num_scalars"] + len(header["weight_decays"]))
    return (len(content) - 16 - struct.unpack_from("<I", content, 8)[0]) // size


def _die_at(event: int, folder: str) -> None:
    """Kill this process (-9) just before its nth change to the files in a folder."""
    changes = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
    seen = 0

    def watch(name: str, details: tuple[Any, ...]) -> None:
        nonlocal seen
        written = name == "open" and isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR)
        # Within a tree that is removed, names are relative.
        if (written or name in changes) and (str(details[0]).startswith(folder) or name in ("os.remove", "os.rmdir")):
            seen += 1
            if seen == event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def _train(argv: list[str], output: str, die_at: int | None) -> None:
    if die_at is not None:
        _die_at(die_at, argv[argv.index("--output_dir") + 1])
    with open(output, "a", buffering=1) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        sys.stdout = sys.stderr = stream
        from zoft.cli.train import main

        try:
            main(argv)
        except Exception:
            traceback.print_exc()  # while there is a stderr
            raise


def start_training(argv: list[str], output: Path, die_at: int | None = None) -> Any:
    """Run ``zoft-train`` in a process of its own, whose imports are already done.

    With ``die_at`` it is killed just before the nth change that it makes to the files in its output_dir.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["zoft.cli.train", "zoft.hf.tasks", "zoft.tasks.encoding", "transformers.trainer"])
    process = context.Process(target=_train, args=(argv, str(output), die_at))
    process.start()
    return process


def finish(argv: list[str], output: Path) -> None:
    """Run ``zoft-train`` to its end."""
    process = start_training(argv, output)
    process.join(120)
    assert process.exitcode == 0, output.read_text()


def train_through_kills(argv: list[str], folder: Path, kills: int, seed: int) -> list[int]:
    """Kill a run (-9) at random moments and resume it each time; return how far it had come."""
    rng, log, output = random.Random(seed), folder / "zo_log", folder.parent / f"{folder.name}.txt"
    argv, seen = [*argv, "--output_dir", str(folder)], []
    for number in range(kills):
        done = steps_logged(log)
        # On average an even share of what is left, so that every kill finds the run going.
        target = done + 1 + rng.randrange(max(1, 2 * (STEPS - done) // (kills - number + 1)))
        process = start_training([*argv, "--resume"] if log.exists() else argv, output)
        deadline = time.monotonic() + 120
        while steps_logged(log) < target and process.is_alive():
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.0005)
        time.sleep(rng.random() * 0.03)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), output.read_text()
        seen.append(steps_logged(log))
    finish([*argv, "--resume"], output)
    return seen
